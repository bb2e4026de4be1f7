"""Templates on a file system with fs-verity: an ext4 in a file, mounted for the test. The guest is the
freestanding one of bench/guest, since SHA-256 of a Linux guest's gigabytes takes minutes where a CPU is
emulated."""

import errno
import os
import subprocess

from host import Skipped, check, check_equal, wait_until

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
DISK_BYTES = 400 << 20


class VerityHome:
    """A home on an ext4 with fs-verity, with an image in it; `host.home` for a `with`."""

    def __init__(self, host):
        self.host, self.outer = host, host.home
        self.guest = os.path.join(os.path.dirname(host.spore), '../../bench/agent.elf')
        self.disk = os.path.join(host.work, 'verity.ext4')
        self.home = os.path.join(host.work, 'verity')

    def __enter__(self):
        if os.geteuid() != 0:
            raise Skipped('only root can mount a file system with fs-verity')
        if not os.path.exists('/sys/fs/ext4/features/verity'):
            raise Skipped("this kernel's ext4 has no fs-verity (CONFIG_FS_VERITY)")
        if not os.path.exists(self.guest):
            raise Skipped(f'{self.guest} is not built')
        os.mkdir(self.home)
        with open(self.disk, 'wb') as file:
            file.truncate(DISK_BYTES)
        subprocess.run(['mkfs.ext4', '-q', '-b', '4096', '-O', 'verity', self.disk], check=True,
                       capture_output=True)
        self.mount()
        try:
            subprocess.run([os.path.join(TREE, 'bench/guest/make_image'), self.home, 'i', self.guest],
                           check=True, capture_output=True)
        except BaseException:
            self.unmount()
            raise
        self.host.home = self.home
        self.host.environment['SPORE_HOME'] = self.home
        return self

    def mount(self):
        subprocess.run(['mount', '-o', 'loop', self.disk, self.home], check=True, capture_output=True)

    def unmount(self):
        """A VM that was ended lets go of its files a little later."""
        wait_until(lambda: subprocess.run(['umount', self.home], check=False,
                                          capture_output=True).returncode == 0, 'umount')

    def __exit__(self, *_):
        self.host.home = self.outer
        self.host.environment['SPORE_HOME'] = self.outer
        subprocess.run(['umount', '-l', self.home], check=False, capture_output=True)
        os.unlink(self.disk)

    def flip_below(self, path, offset):
        """Flips a bit of a file in the disk, below the file system: where it is, its own map says."""
        relative = '/' + os.path.relpath(path, self.home)
        self.unmount()
        answer = subprocess.run(['debugfs', '-R', f'bmap {relative} {offset // 4096}', self.disk],
                                check=True, capture_output=True).stdout
        flip_on_disk(self.disk, int(answer.split()[-1]) * 4096 + 100)
        self.mount()


def last_data(path):
    """The offset of the last page of a sparse file that has data."""
    at, end = 0, 0
    with open(path, 'rb') as file:
        try:
            while True:
                at = os.lseek(file.fileno(), end, os.SEEK_DATA)
                end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
        except OSError as error:
            check_equal(error.errno, errno.ENXIO, 'the end of it')
    return (end - 1) // 4096 * 4096


def verity(host):
    with VerityHome(host) as place:
        host.run('template', 'create', 't', '--image', 'i', '--memory', '64M', '--disk', '2M')
        template = os.path.join(place.home, 'templates', 't')
        found = host.json('template', 'verify', 't')
        check_equal((found['sealed_anew'], found['verity']), (False, True), 'sealed_anew, verity')
        for file in ('memory.img', 'base.img', 'disk-0.img', 'state.spore'):
            try:
                with open(os.path.join(template, file), 'r+b'):
                    check(False, f'{file} can be written')
            except OSError as error:
                check_equal(error.errno, errno.EPERM, f'opening {file} to write it')
        host.run('image', 'remove', 'i')
        host.run('create', 'verified', '--template', 't')
        check_equal(host.exec('verified', 'hostname'), 'verified', 'what it says')
        host.run('destroy', 'verified')
        for file in ('base.img', 'memory.img'):
            path = os.path.join(template, file)
            offset = last_data(path)
            place.flip_below(path, offset)
            error = host.json('template', 'verify', 't', status=65)['error']
            check(f'{file}: the bytes from {offset} cannot be read' in error['message'],
                  f'{error["message"]} does not name {file} and {offset}')
            place.flip_below(path, offset)
            host.run('template', 'verify', 't')
        host.run('template', 'remove', 't')
        check_equal(os.listdir(os.path.dirname(template)), [], 'left in templates')


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
