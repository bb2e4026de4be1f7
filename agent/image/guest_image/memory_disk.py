"""A file tree in memory while something is made: no disk to wait for, gone with us whatever happens."""

import contextlib
import ctypes
import os

from guest_image.failure import Failure

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
MNT_DETACH = 2
# Less than this is not worth trying: Debian's root alone takes a quarter of it. In bytes.
LEAST_BYTES = 1 << 30
# A tree in memory with less room than this left, in bytes, has failed for want of room.
FULL_BYTES = 16 << 20

_libc = ctypes.CDLL(None, use_errno=True)


class Full(Failure):
    """What was being made does not fit into memory."""

    def __init__(self, path, size):
        super().__init__('resource_exhausted', path, f'{size >> 20} MiB of memory do not hold it')


def available_bytes():
    """How large a tree this machine can hold: half of the memory that nobody uses, or 0."""
    with open('/proc/meminfo', encoding='ascii') as source:
        values = dict(line.split(':') for line in source)
    half = int(values['MemAvailable'].split()[0]) << 9
    return half if half >= LEAST_BYTES else 0


@contextlib.contextmanager
def mounted(path, size):
    """Has `size` bytes of memory mounted at `path`, for this process and its children alone.

    A failure for want of room comes out as Full.
    """
    check(_libc.unshare(CLONE_NEWNS), 'mount namespace')
    check(_libc.mount(None, b'/', None, MS_REC | MS_PRIVATE, None), 'mount namespace')
    options = f'mode=0755,size={size}'.encode()
    check(_libc.mount(b'spore', os.fsencode(path), b'tmpfs', 0, options), path)
    try:
        yield
    except (Failure, OSError) as failure:
        status = os.statvfs(path)
        if status.f_bavail * status.f_frsize < FULL_BYTES:
            raise Full(path, size) from failure
        raise
    finally:
        check(_libc.umount2(os.fsencode(path), MNT_DETACH), path)


def check(result, what):
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)
