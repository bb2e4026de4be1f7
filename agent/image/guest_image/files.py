"""Files that are there whole or not at all."""

import ctypes
import errno
import os
import tempfile

from guest_image.failure import Failure

AT_FDCWD = -100
RENAME_EXCHANGE = 2

_libc = ctypes.CDLL(None, use_errno=True)


def write_file(path, data):
    """Writes or replaces `path` with `data` in one step."""
    path = os.path.abspath(path)
    if os.path.isdir(path):
        raise Failure('invalid_argument', path, 'is a directory')
    descriptor, temporary = tempfile.mkstemp(prefix='.new-', dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, 'wb') as target:
            target.write(data)
        os.chmod(temporary, 0o644)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def put_directory(new, path):
    """Makes directory `new` (on the same file system) the one at `path`, in one step.

    Where one stood at `path`, that is now at `new`: the caller removes it.
    """
    if _libc.renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(path),
                       RENAME_EXCHANGE) == 0:
        return
    error = ctypes.get_errno()
    if error != errno.ENOENT:
        raise OSError(error, os.strerror(error), path)
    os.rename(new, path)


def sync_tree(path):
    """Has all files below `path` on disk before they are named, so a crash leaves no torn image."""
    for base, _, names in os.walk(path):
        for each in [*names, '.']:
            descriptor = os.open(os.path.join(base, each), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
