"""The initramfs of a guest: the agent as /init, the kernel's modules and the order to load them in."""

import gzip
import os
import subprocess

from guest_image import elf
from guest_image.command import need_programs
from guest_image.cpio import Archive
from guest_image.failure import Failure

# Where the agent finds what to load: one absolute path per line, a module after those it needs.
MODULE_LIST = 'etc/spore/modules'
COMPRESSIONS = ('none', 'lz4', 'gzip')


def read_file(path, what):
    try:
        with open(path, 'rb') as source:
            return source.read()
    except FileNotFoundError as error:
        raise Failure('not_found', f'{what} {path}', 'no such file') from error
    except OSError as error:
        raise Failure('invalid_argument', f'{what} {path}', error.strerror) from error


def make(agent, kernel_dir, added=(), compression='none', check_agent=True):
    """The bytes of the initramfs. `added` is [(file here, path in it)]; modes are kept."""
    agent_data = read_file(agent, 'agent')
    if check_agent:
        elf.check_static(agent)
    modules = read_file(os.path.join(kernel_dir, 'modules.list'), 'kernel').decode().split()
    archive = Archive()
    for directory in ('dev', 'proc', 'sys', 'run', 'newroot', 'etc/spore', 'lib/modules'):
        archive.directory(directory)
    # The kernel opens /dev/console for init before anything can mount devtmpfs.
    archive.character_device('dev/console', 5, 1, 0o600)
    archive.character_device('dev/null', 1, 3, 0o666)
    archive.file('init', agent_data, 0o755)
    for name in modules:
        data = read_file(os.path.join(kernel_dir, 'modules', name), 'module')
        archive.file(f'lib/modules/{name}', data)
    archive.file(MODULE_LIST, ''.join(f'/lib/modules/{name}\n' for name in modules).encode())
    for source, inside in added:
        mode = os.stat(source).st_mode & 0o777 if os.path.exists(source) else 0
        archive.file(inside, read_file(source, 'file'), mode)
    return compress(archive.data(), compression)


def compress(data, compression):
    if compression == 'gzip':
        return gzip.compress(data, 9, mtime=0)
    if compression == 'lz4':
        need_programs('lz4')
        # The kernel reads the legacy frame only.
        return subprocess.run(['lz4', '-l', '-9', '-c'], input=data, capture_output=True,
                              check=True).stdout
    return data
