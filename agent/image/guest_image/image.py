"""An image: the directory that templates are made from. Appears whole or not at all."""

import contextlib
import datetime
import fcntl
import glob
import hashlib
import json
import os
import shutil

from guest_image import apt, cpio, initramfs, kernel, recipe, rootfs
from guest_image.failure import Failure, check_name, temporary_directory
from guest_image.files import put_directory, sync_tree, write_file

FORMAT = 1
DESCRIPTION = 'image.json'


def build(name, home, recipe_name, packages, kernels, agent, force, progress):
    """Builds image `name` in `home`; returns (its description, whether anything was to be done).

    `kernels` are the kernels it must have, the first one its default; the stock kernel, and the
    tuned one where it has been made before, are always in.
    """
    check_name(name)
    for each in kernels:
        if each not in kernel.NAMES:
            raise Failure('invalid_argument', f'kernel {each!r}',
                          f'not one of {", ".join(kernel.NAMES)}')
    plan = recipe.load(recipe_name, packages)
    initramfs.read_file(agent, 'agent')
    initramfs.elf.check_static(agent)
    rootfs.need_all()
    os.makedirs(home, mode=0o700, exist_ok=True)
    images = os.path.join(home, 'images')
    os.makedirs(images, exist_ok=True)
    cache = os.path.join(home, 'cache')
    with only_one_builder(images, progress):
        made = {each: kernel.make(each, cache, progress) for each in wanted(kernels, cache)}
        inputs = fingerprint(plan, made, kernels[0], agent)
        final = os.path.join(images, name)
        old = read_description(final)
        if not force and is_current(final, old, inputs):
            return old, False
        with temporary_directory(images, f'.{name}-') as work:
            new = os.path.join(work, 'image')
            os.makedirs(new)
            description = {'format': FORMAT, 'name': name, 'created': now(),
                           'recipe': plan.name, 'base': plan.base, 'packages': plan.packages,
                           'inputs_sha256': inputs, 'default_kernel': kernels[0],
                           'agent': {'size': os.path.getsize(agent),
                                     'sha256': apt.file_sha256(agent)}}
            description['rootfs'] = add_rootfs(plan, new, work, cache, progress,
                                               None if force else (final, old))
            description['kernels'] = {each: add_kernel(each, path, agent, new)
                                      for each, path in made.items()}
            description['files'] = list_files(new)
            write_file(os.path.join(new, DESCRIPTION),
                       (json.dumps(description, indent=4) + '\n').encode())
            make_read_only(new)
            sync_tree(new)
            put_directory(new, final)
    return description, True


@contextlib.contextmanager
def only_one_builder(images, progress):
    """Holds the lock of the images' directory; what a killed builder left there is removed."""
    descriptor = os.open(images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.step('waiting for another image to be built')
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        for pattern in ('.*-????????', '../cache/kernels/.*-????????',
                        '../cache/debs/.download-????????'):
            for left in glob.glob(os.path.join(glob.escape(images), pattern)):
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)


def wanted(kernels, cache):
    """The kernels that go in: what is asked for, the stock one, the tuned one if it is made."""
    chosen = ['stock']
    if 'tuned' in kernels or kernel.cached('tuned', cache):
        chosen.append('tuned')
    return chosen


def fingerprint(plan, made, default_kernel, agent):
    """A hash of all that decides what the image is, but for the versions of its packages."""
    digest = hashlib.sha256()
    parts = [str(FORMAT), plan.name, rootfs.fingerprint(plan), default_kernel,
             apt.file_sha256(agent)]
    parts += [f'{name}={os.path.basename(path)}' for name, path in sorted(made.items())]
    parts += [apt.file_sha256(path) for path in (__file__, cpio.__file__, initramfs.__file__)]
    for part in parts:
        digest.update(part.encode() + b'\0')
    return digest.hexdigest()


def read_description(path):
    """The image's description, or None where there is none that can be read."""
    try:
        with open(os.path.join(path, DESCRIPTION), encoding='utf-8') as source:
            description = json.load(source)
    except (OSError, ValueError):
        return None
    return description if isinstance(description, dict) else None


def is_current(path, description, inputs):
    if not description or description.get('inputs_sha256') != inputs:
        return False
    for name, facts in description.get('files', {}).items():
        file = os.path.join(path, name)
        if not os.path.isfile(file) or os.path.getsize(file) != facts.get('size'):
            return False
    return True


def add_rootfs(plan, new, work, cache, progress, previous):
    """Puts the root file system into `new`: the previous image's, if it is made from the same and
    has not changed since, else a new one. Returns its description."""
    mark = rootfs.fingerprint(plan)
    path = os.path.join(new, 'rootfs.ext4')
    packages = os.path.join(new, 'packages.txt')
    old_path, old = previous or (None, None)
    known = (old or {}).get('rootfs', {})
    if known.get('inputs_sha256') == mark:
        with contextlib.suppress(FileNotFoundError):
            old_file = os.path.join(old_path, known['path'])
            if apt.file_sha256(old_file) == known['sha256']:
                progress.step('the root file system is made already')
                os.link(old_file, path)
                os.link(os.path.join(old_path, 'packages.txt'), packages)
                return known
    directory = os.path.join(work, 'rootfs')
    os.makedirs(directory)
    installed = rootfs.make(plan, path, directory, cache, progress)
    write_file(packages, ''.join(f'{line}\n' for line in installed).encode())
    return {'path': 'rootfs.ext4', 'filesystem': 'ext4', 'size': os.path.getsize(path),
            'sha256': apt.file_sha256(path), 'inputs_sha256': mark}


def add_kernel(name, made, agent, new):
    """Puts kernel `name` and its initramfs into `new`; returns their description."""
    directory = os.path.join('kernel', name)
    os.makedirs(os.path.join(new, directory))
    facts = kernel.read_description(made)
    description = {key: facts[key] for key in ('version', 'package', 'package_version')}
    for each in ('vmlinux', 'vmlinuz', 'config', 'System.map'):
        if os.path.exists(os.path.join(made, each)):
            inside = os.path.join(directory, each)
            os.link(os.path.join(made, each), os.path.join(new, inside))
            description[each] = inside
    description['initramfs'] = f'initramfs-{name}.img'
    write_file(os.path.join(new, description['initramfs']), initramfs.make(agent, made))
    return description


def list_files(new):
    """Size and checksum of every file in the image."""
    files = {}
    for base, _, names in os.walk(new):
        for each in names:
            path = os.path.join(base, each)
            files[os.path.relpath(path, new)] = {'size': os.path.getsize(path),
                                                 'sha256': apt.file_sha256(path)}
    return dict(sorted(files.items()))


def make_read_only(new):
    """Templates share the root file system with the image (a hard link): nobody may write it."""
    for base, _, names in os.walk(new):
        for each in names:
            os.chmod(os.path.join(base, each), 0o400)


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ')
