"""The stock kernel: Debian's cloud kernel as it is, unpacked, and the modules a guest needs of it."""

import glob
import os
import re
import shutil

from guest_image import apt, elf
from guest_image.command import need_programs, run
from guest_image.failure import Failure

META_PACKAGE = 'linux-image-cloud-amd64'
# What the guest needs, most urgent first; what these depend on is found in the modules themselves.
WANTED = (
    'virtio_pci',
    'virtio_blk',
    'virtio_rng',
    'vmw_vsock_virtio_transport',
    'virtio_net',
    'virtio_balloon',
    'overlay',
)
EXTRACT_VMLINUX = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                                '../../../tools/extract-vmlinux'))


def package():
    """The package that the meta package stands for now."""
    need_programs('apt-cache', 'apt-get', 'dpkg-deb')
    depends = apt.find(META_PACKAGE).depends
    match = re.search(r'\blinux-image-[0-9][0-9a-z.+-]*-cloud-amd64\b', depends)
    if not match:
        raise Failure('unavailable', f'package {META_PACKAGE}',
                      f'names no kernel package: {depends!r}')
    return apt.find(match[0])


def inputs():
    found = package()
    return (found.name, found.version, found.sha256, apt.file_sha256(EXTRACT_VMLINUX))


def make(work, out, cache, progress):
    found = package()
    deb = apt.fetch(found, cache, progress)
    progress.step(f'unpacking {found.name} {found.version}')
    tree = os.path.join(work, 'tree')
    apt.unpack(deb, tree)
    image = only(os.path.join(tree, 'boot/vmlinuz-*'))
    shutil.copyfile(image, os.path.join(out, 'vmlinuz'))
    shutil.copyfile(only(os.path.join(tree, 'boot/config-*')), os.path.join(out, 'config'))
    run([EXTRACT_VMLINUX, os.path.join(out, 'vmlinuz'), os.path.join(out, 'vmlinux')],
        f'kernel {found.name}')
    modules = collect_modules(only(os.path.join(tree, 'lib/modules/*')))
    for name, path in modules:
        shutil.copyfile(path, os.path.join(out, 'modules', f'{name}.ko'))
    with open(os.path.join(out, 'modules.list'), 'w', encoding='utf-8') as target:
        target.writelines(f'{name}.ko\n' for name, _ in modules)
    return {'version': os.path.basename(image).removeprefix('vmlinuz-'),
            'package': found.name, 'package_version': found.version,
            'config_sha256': apt.file_sha256(os.path.join(out, 'config'))}


def only(pattern):
    found = glob.glob(pattern)
    if len(found) != 1:
        raise Failure('corrupt', 'kernel package', f'has {len(found)} files like '
                      + os.path.basename(pattern) + ', not 1')
    return found[0]


def module_name(file_name):
    """The kernel's name of a module: virtio-rng.ko is virtio_rng."""
    return os.path.basename(file_name).split('.ko')[0].replace('-', '_')


def collect_modules(tree):
    """[(name, path)] of the wanted modules and all they need, each after what it needs."""
    paths = {}
    for base, _, names in os.walk(os.path.join(tree, 'kernel')):
        paths.update({module_name(name): os.path.join(base, name)
                      for name in names if name.endswith('.ko')})
    with open(os.path.join(tree, 'modules.builtin'), encoding='utf-8') as source:
        built_in = {module_name(line.strip()) for line in source}
    return order_modules(WANTED, built_in, paths)


def order_modules(wanted, built_in, paths):
    ordered = {}
    waiting = []

    def visit(name):
        if name in ordered or name in built_in:
            return
        if name in waiting:
            raise Failure('corrupt', f'module {name}', f'needs itself, by {" ".join(waiting)}')
        if name not in paths:
            raise Failure('not_found', f'module {name}', 'neither a module nor built in')
        waiting.append(name)
        info = elf.module_info(paths[name])
        before = [each for entry in info.get('softdep', []) if entry.startswith('pre: ')
                  for each in entry.removeprefix('pre: ').split()]
        for entry in info.get('depends', []):
            before += [each for each in entry.split(',') if each]
        for each in before:
            visit(each.replace('-', '_'))
        waiting.pop()
        ordered[name] = paths[name]

    for name in wanted:
        visit(name)
    return list(ordered.items())
