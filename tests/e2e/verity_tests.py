"""Templates on a file system with fs-verity: an ext4 in a file, mounted for the test."""

import errno
import os
import subprocess

from host import Skipped, check, check_equal

DISK_BYTES = 6 << 30


class VerityHome:
    """A home on an ext4 with fs-verity, with a copy of a template in it; `host.home` for a `with`."""

    def __init__(self, host):
        self.host, self.outer = host, host.home
        self.disk = os.path.join(host.work, 'verity.ext4')
        self.home = os.path.join(host.work, 'verity')

    def __enter__(self):
        if os.geteuid() != 0:
            raise Skipped('only root can mount a file system with fs-verity')
        if not os.path.exists('/sys/fs/ext4/features/verity'):
            raise Skipped("this kernel's ext4 has no fs-verity (CONFIG_FS_VERITY)")
        os.mkdir(self.home)
        with open(self.disk, 'wb') as file:
            file.truncate(DISK_BYTES)
        if subprocess.run(['mkfs.ext4', '-q', '-b', '4096', '-O', 'verity', '-E', 'lazy_itable_init=1',
                           self.disk], check=False, capture_output=True).returncode != 0:
            raise Skipped('mkfs.ext4 makes no ext4 with fs-verity')
        if self.mount() != 0:
            raise Skipped('no loop device to mount a file system with')
        self.host.home = self.home
        self.host.environment['SPORE_HOME'] = self.home
        return self

    def mount(self):
        return subprocess.run(['mount', '-o', 'loop', self.disk, self.home], check=False,
                              capture_output=True).returncode

    def unmount(self):
        subprocess.run(['umount', self.home], check=True, capture_output=True)

    def __exit__(self, *_):
        self.host.home = self.outer
        self.host.environment['SPORE_HOME'] = self.outer
        subprocess.run(['umount', '-l', self.home], check=False, capture_output=True)
        os.unlink(self.disk)

    def block_of(self, path, offset):
        """Where in the disk the block at `offset` of a file is, by the file system's own map."""
        relative = '/' + os.path.relpath(path, self.home)
        answer = subprocess.run(['debugfs', '-R', f'bmap {relative} {offset // 4096}', self.disk],
                                check=True, capture_output=True).stdout
        return int(answer.split()[-1]) * 4096


def data_offset(path):
    with open(path, 'rb') as file:
        middle = os.path.getsize(path) // 3 // 4096 * 4096
        return os.lseek(file.fileno(), middle, os.SEEK_DATA) // 4096 * 4096


def verity(host):
    name = host.template(host.fast_kernel)
    source = os.path.join(host.home, 'templates', name)
    with VerityHome(host) as place:
        template = os.path.join(place.home, 'templates', name)
        os.mkdir(os.path.dirname(template))
        subprocess.run(['cp', '-r', '--sparse=always', source, template], check=True)
        found = host.json('template', 'verify', name)
        check_equal((found['sealed_anew'], found['verity']), (True, True), 'sealed_anew, verity')
        found = host.json('template', 'verify', name)
        check_equal((found['sealed_anew'], found['verity']), (False, True), 'sealed_anew, verity')
        for file in ('memory.img', 'base.img', 'disk-0.img', 'state.spore'):
            try:
                with open(os.path.join(template, file), 'r+b'):
                    check(False, f'{file} can be written')
            except OSError as error:
                check_equal(error.errno, errno.EPERM, f'opening {file} to write it')
        host.run('create', 'verified', '--template', name)
        check_equal(host.exec('verified', 'echo here'), 'here', 'what it says')
        host.run('destroy', 'verified')
        # A byte changes below the file system.
        for file in ('base.img', 'memory.img'):
            path = os.path.join(template, file)
            offset = data_offset(path)
            at = place.block_of(path, offset) + 100
            place.unmount()
            flip_on_disk(place.disk, at)
            check_equal(place.mount(), 0, 'mounting it again')
            error = host.json('template', 'verify', name, status=65)['error']
            check(file in error['message'] and 'cannot be read' in error['message'],
                  f'{error["message"]} does not name {file}')
            place.unmount()
            flip_on_disk(place.disk, at)
            check_equal(place.mount(), 0, 'mounting it again')
            host.run('template', 'verify', name)


def flip_on_disk(disk, at):
    with open(disk, 'r+b') as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
        file.flush()
        os.fsync(file.fileno())


TESTS = [
    ('template-verity', verity),
]
