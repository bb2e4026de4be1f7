"""A guest's root file system: an ext4 image made of Debian's packages, by a recipe."""

import hashlib
import io
import os
import shlex
import stat
import tarfile
import uuid

from guest_image import apt, ext4, finish, memory_disk
from guest_image.command import need_programs, run
from guest_image.failure import need_root

# Documentation is not installed, not even by a later apt in the guest; licences are.
DPKG_OPTIONS = (
    'path-exclude=/usr/share/doc/*',
    'path-include=/usr/share/doc/*/copyright',
    'path-exclude=/usr/share/man/*',
    'path-exclude=/usr/share/info/*',
    'path-exclude=/usr/share/locale/*',
    'path-exclude=/usr/share/lintian/*',
    'path-exclude=/usr/share/bug/*',
    # A sandbox's disk is thrown away, not recovered: no fsync for each file unpacked.
    'force-unsafe-io',
)
BUSYBOX_PACKAGE = 'busybox-static'
BUSYBOX_DIRECTORIES = ('bin', 'sbin', 'usr/bin', 'usr/sbin', 'dev', 'proc', 'sys', 'run', 'etc',
                       'root', 'home', 'tmp', 'var/log', 'var/tmp', 'mnt')
BUSYBOX_FILES = {
    'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\n'
                  'nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n',
    'etc/group': 'root:x:0:\ntty:x:5:\nnogroup:x:65534:\n',
    'etc/shadow': 'root:*:19000:0:99999:7:::\n',
    'etc/profile': 'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n',
}


def fingerprint(recipe):
    """A hash of what the root would be made from, but for the versions of Debian's packages."""
    digest = hashlib.sha256(recipe.fingerprint().encode())
    for path in (__file__, ext4.__file__, finish.__file__):
        digest.update(apt.file_sha256(path).encode())
    return digest.hexdigest()


def need_all():
    """Fails unless this machine and user can make a root file system at all."""
    need_root('root file system')
    need_programs('apt-get', 'apt-cache', 'dpkg-deb', 'mmdebstrap', 'unshare', 'mke2fs', 'e2fsck')


def make(recipe, path, work, cache, progress):
    """Makes the image file `path`. `work` is an empty directory on a disk with some room.

    Returns the installed packages, as 'name version' lines.
    """
    need_all()
    if size := memory_disk.available_bytes():
        try:
            with memory_disk.mounted(work, size):
                return make_in(work, recipe, path, cache, progress)
        except memory_disk.Full:
            progress.step('the root does not fit into memory: once more, on the disk')
    return make_in(work, recipe, path, cache, progress)


def make_in(work, recipe, path, cache, progress):
    """As `make`, wherever `work` is."""
    root = os.path.join(work, 'root')
    os.makedirs(root)
    if recipe.base == 'debian':
        apt.find_all(recipe.packages)
        sources = apt.debian_sources(recipe.suite)
        bootstrap(recipe, root, work, cache, sources, progress)
        guest_sources = apt.guest_source_lines(sources)
    else:
        busybox_tree(root, work, cache, progress)
        extract(recipe_files(recipe.files), root)
        guest_sources = None
    progress.step('finishing the root')
    installed = finish.finish(root, guest_sources)
    progress.step('making the ext4 image')
    mark = uuid.uuid5(uuid.NAMESPACE_OID, f'spore {fingerprint(recipe)}')
    image = os.path.join(work, 'rootfs.ext4')
    ext4.make(root, image, recipe.free_space, str(mark))
    # Copying finds the holes. To dig them on the disk would be many discards, each of them slow.
    run(['cp', '--sparse=always', image, path], 'root file system')
    os.chmod(path, 0o444)
    return installed


def bootstrap(recipe, root, work, cache, sources, progress):
    """Installs Debian into `root` with mmdebstrap, in namespaces of its own, so that no mount and
    no process outlives it, whatever happens."""
    settings = os.path.join(work, 'apt.conf')
    with open(settings, 'w', encoding='utf-8') as target:
        target.writelines(f'{line}\n' for line in apt.carried_settings())
        # Nobody but root may look into Spore's home.
        target.write('APT::Sandbox::User "root";\nAPT::Install-Recommends "false";\n'
                     'Acquire::Languages "none";\n')
    archives = os.path.join(cache, 'archives')
    os.makedirs(archives, exist_ok=True)
    argv = ['unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc', '--',
            'mmdebstrap', '--mode=root', '--variant=apt', '--format=directory',
            '--architectures=amd64', '--skip=essential/unlink', f'--aptopt={settings}',
            *[f'--dpkgopt={option}' for option in DPKG_OPTIONS],
            '--setup-hook=mkdir -p "$1"/var/cache/apt/archives',
            f'--setup-hook=sync-in {shlex.quote(archives)} /var/cache/apt/archives',
            f'--customize-hook=sync-out /var/cache/apt/archives {shlex.quote(archives)}']
    if recipe.packages:
        argv.append('--include=' + ','.join(recipe.packages))
    if recipe.files:
        extra = os.path.join(work, 'files.tar')
        with open(extra, 'wb') as target:
            target.write(recipe_files(recipe.files))
        argv.append(f'--customize-hook=tar-in {shlex.quote(extra)} /')
    for command in recipe.run:
        argv.append('--customize-hook=chroot "$1" sh -ec ' + shlex.quote(command))
    environment = {key: value for key, value in os.environ.items()
                   if key == 'PATH' or key.lower().endswith('_proxy')}
    environment |= {'LC_ALL': 'C.UTF-8', 'DEBIAN_FRONTEND': 'noninteractive', 'TMPDIR': work}
    run([*argv, recipe.suite, root, *apt.source_lines(sources)], f'recipe {recipe.name}',
        env=environment, on_line=lambda line: show(line, progress))
    apt.drop_cached_archives(archives)


def show(line, progress):
    if line.startswith('I: ') and 'hook' not in line:
        progress.step(f'mmdebstrap: {line[3:]}')


def recipe_files(files):
    """The files of a recipe as a tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as archive:
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip('/'))
            entry.size, entry.mode, entry.uid, entry.gid = (len(file.data), file.mode, file.uid,
                                                            file.gid)
            archive.addfile(entry, io.BytesIO(file.data))
    return out.getvalue()


def extract(archive, root):
    """Unpacks recipe_files' archive below `root`, which has no symbolic link to lead elsewhere."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as source:
        for entry in source:
            path = os.path.join(root, entry.name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'wb') as target:
                target.write(source.extractfile(entry).read())
            os.chown(path, entry.uid, entry.gid)
            os.chmod(path, stat.S_IMODE(entry.mode))


def busybox_tree(root, work, cache, progress):
    """A root of Debian's static busybox alone; finish() links its commands."""
    unpacked = os.path.join(work, 'busybox')
    apt.unpack(apt.fetch(apt.find(BUSYBOX_PACKAGE), cache, progress), unpacked)
    for directory in BUSYBOX_DIRECTORIES:
        os.makedirs(os.path.join(root, directory))
    for directory in ('tmp', 'var/tmp'):
        os.chmod(os.path.join(root, directory), 0o1777)
    os.chmod(os.path.join(root, 'root'), 0o700)
    os.rename(os.path.join(unpacked, 'bin/busybox'), os.path.join(root, 'bin/busybox'))
    for path, text in BUSYBOX_FILES.items():
        with open(os.path.join(root, path), 'w', encoding='utf-8') as target:
            target.write(text)
