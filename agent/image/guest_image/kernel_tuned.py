"""The tuned kernel: Debian's kernel source under our own configuration (kernel/tuned.config)."""

import contextlib
import glob
import os
import re
import shutil
import time

from guest_image import apt, memory_disk
from guest_image.command import need_programs, run
from guest_image.failure import Failure

SOURCE_PACKAGE = 'linux-source-6.1'
CONFIG = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                      'kernel/tuned.config')
SETTING = re.compile(r'(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set')
# What the configuration cannot use is not unpacked: two thirds of the source's 79,000 files, and on
# a busy disk most of the time. Kconfig and Makefiles stay, for the configuration to be made from all.
OTHER_DRIVERS = ('clk', 'gpu', 'hid', 'hwmon', 'iio', 'infiniband', 'media', 'mtd', 'net/ethernet',
                 'net/wireless', 'pinctrl', 'scsi', 'staging', 'usb', 'video')
NOT_UNPACKED = ('Documentation/*/*', 'arch/[!x]*/*.[chS]', 'arch/[!x]*/boot/*', 'samples/*.[ch]',
                'sound/*.[ch]', 'tools/perf/*', 'tools/testing/*',
                *(f'drivers/{each}/*.[ch]' for each in OTHER_DRIVERS))
# Room that the unpacked source and its build need, in bytes.
NEEDED_BYTES = 2 << 30


def inputs():
    need_programs('apt-cache', 'apt-get', 'dpkg-deb')
    found = apt.find(SOURCE_PACKAGE)
    return (found.name, found.version, found.sha256, apt.file_sha256(CONFIG))


def make(work, out, cache, progress):
    need_programs('make', 'gcc', 'bc', 'flex', 'bison', 'lz4', 'xz', 'strip')
    if not os.path.exists('/usr/include/libelf.h'):
        raise Failure('host_unsupported', 'header libelf.h',
                      'not installed; install the package libelf-dev')
    found = apt.find(SOURCE_PACKAGE)
    deb = apt.fetch(found, cache, progress)
    tree = os.path.join(work, 'tree')
    os.makedirs(tree)
    with room_for_building(tree):
        progress.step(f'unpacking {found.name} {found.version}')
        source, stamp = unpack_source(deb, tree)
        build = os.path.join(source, 'build')
        make_argv = make_command(source, build, stamp)
        configure(make_argv, build)
        compile_kernel(make_argv, progress)
        collect(build, out)
        release = read_line(os.path.join(build, 'include/config/kernel.release'))
    return {'version': release, 'package': found.name, 'package_version': found.version,
            'config_sha256': apt.file_sha256(os.path.join(out, 'config'))}


def room_for_building(tree):
    """A context in which `tree` has NEEDED_BYTES of room: in memory, or else on the disk it is on."""
    size = memory_disk.available_bytes()
    if os.geteuid() == 0 and size >= NEEDED_BYTES:
        return memory_disk.mounted(tree, size)
    free = shutil.disk_usage(tree).free
    if free < NEEDED_BYTES:
        raise Failure('resource_exhausted', 'kernel tuned',
                      f'{free >> 20} MiB are free at {tree}, {NEEDED_BYTES >> 20} are needed')
    return contextlib.nullcontext()


def unpack_source(deb, work):
    """The source's directory, and its time (the package's own, so that it is the same again)."""
    apt.unpack(deb, os.path.join(work, 'deb'))
    archives = glob.glob(os.path.join(work, 'deb/usr/src/linux-source-*.tar.xz'))
    if len(archives) != 1:
        raise Failure('corrupt', f'package {SOURCE_PACKAGE}', 'has no linux-source archive')
    stamp = int(os.path.getmtime(archives[0]))
    run(['tar', '-C', work, *[f'--exclude=linux-source-*/{each}' for each in NOT_UNPACKED],
         '-xf', archives[0]], f'package {SOURCE_PACKAGE}')
    os.unlink(archives[0])
    return only_directory(os.path.join(work, 'linux-source-*')), stamp


def only_directory(pattern):
    found = glob.glob(pattern)
    if len(found) != 1:
        raise Failure('corrupt', f'package {SOURCE_PACKAGE}', f'has {len(found)} directories')
    return found[0]


def make_command(source, build, stamp):
    # Built below its source the kernel uses relative paths, so a compiler cache hits again.
    compiler = 'ccache gcc' if shutil.which('ccache') else 'gcc'
    date = time.strftime('%a %b %e %H:%M:%S UTC %Y', time.gmtime(stamp))
    return ['nice', '-n', '10', 'make', '-C', source, f'O={build}', 'ARCH=x86_64',
            f'-j{os.cpu_count()}', f'CC={compiler}', f'KBUILD_BUILD_TIMESTAMP={date}',
            'KBUILD_BUILD_USER=spore', 'KBUILD_BUILD_HOST=spore', 'KBUILD_BUILD_VERSION=1']


def configure(make_argv, build):
    os.makedirs(build, exist_ok=True)
    run([*make_argv, f'KCONFIG_ALLCONFIG={CONFIG}', 'allnoconfig'], 'kernel configuration')
    got = settings(os.path.join(build, '.config'))
    for name, value in settings(CONFIG).items():
        if got.get(name, 'n') != value:
            raise Failure('version_mismatch', 'kernel configuration',
                          f'{name}={value} came out as {got.get(name, "n")}')


def settings(path):
    """{'CONFIG_X': 'y', ...} of a configuration; what is not set is 'n'."""
    found = {}
    with open(path, encoding='utf-8') as source:
        for line in source:
            if match := SETTING.fullmatch(line.strip()):
                found[match[1] or match[3]] = match[2] or 'n'
    return found


def compile_kernel(make_argv, progress):
    done = 0

    def count(line):
        nonlocal done
        if line.startswith('  CC '):
            done += 1
            if done % 200 == 0:
                progress.step(f'compiling the kernel: {done} files')

    progress.step('compiling the kernel (6 minutes on 2 cores)')
    run([*make_argv, 'vmlinux', 'bzImage'], 'kernel build', on_line=count)


def collect(build, out):
    for source, target in (('arch/x86/boot/bzImage', 'vmlinuz'), ('.config', 'config'),
                           ('System.map', 'System.map')):
        shutil.copyfile(os.path.join(build, source), os.path.join(out, target))
    # Its own kallsyms serve the kernel; System.map serves us.
    run(['strip', '--strip-all', '-o', os.path.join(out, 'vmlinux'),
         os.path.join(build, 'vmlinux')], 'kernel build')
    with open(os.path.join(out, 'modules.list'), 'w', encoding='utf-8'):
        pass  # everything is built in


def read_line(path):
    with open(path, encoding='utf-8') as source:
        return source.readline().strip()
