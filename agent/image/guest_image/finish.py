"""What every root gets at the end, and what must not be in one. Runs in a chroot of the root, so that
no symbolic link in there can lead a write to a file of the machine's."""

import glob
import os
import shutil
import subprocess

from guest_image.failure import Failure

USER_ID = 1000
HOSTS = ('127.0.0.1 localhost\n127.0.1.1 spore\n::1 localhost ip6-localhost ip6-loopback\n'
         'ff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n')
# git commits at once, without being told who is there; `git config --global` overrides it.
GITCONFIG = ('[init]\n\tdefaultBranch = main\n[user]\n\tname = Sandbox\n'
             '\temail = sandbox@spore.invalid\n')
# Secrets or identities that all guests of an image would share, and leftovers of the making.
REMOVED = (
    '/etc/ssh/ssh_host_*',
    '/var/lib/dbus/machine-id',
    '/var/lib/systemd/random-seed',
    '/etc/apt/apt.conf.d/99mmdebstrap',
    '/var/cache/apt/*',
    '/var/lib/apt/lists/*',
    '/var/cache/debconf/*-old',
    '/var/lib/dpkg/*-old',
    '/var/log/*.log',
    '/var/log/apt/*',
    '/tmp/*',
    '/run/*',
    '/root/.bash_history',
)
DIRECTORIES = ('/dev', '/proc', '/sys', '/run', '/tmp')
PATH = ('/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin')
# Applets that would be wrong as commands: a guest has its init, and Debian has its own packages.
NOT_LINKED = ('init', 'linuxrc', 'dpkg', 'dpkg-deb', 'rpm', 'rpm2cpio', 'busybox')


def finish(root, guest_sources):
    """Finishes the tree at `root`; `guest_sources` are its apt's, or None where there is no apt.

    Returns the installed packages, as 'name version' lines.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            os.chroot(root)
            os.chdir('/')
            os.umask(0o022)
            answer = finish_inside(guest_sources)
            status = 0
        except BaseException as error:  # whatever it is, the parent has to say it
            answer = f'{type(error).__name__}: {error}'
        with os.fdopen(writer, 'w') as target:
            target.write(answer)
        os._exit(status)
    os.close(writer)
    try:
        with os.fdopen(reader) as source:
            answer = source.read()
    finally:
        _, status = os.waitpid(child, 0)
    if status != 0:
        raise Failure('internal', 'root file system', answer or 'its last steps failed')
    return answer.splitlines()


def finish_inside(guest_sources):
    installed = ''
    if os.path.exists('/usr/bin/dpkg-query'):
        installed = subprocess.run(['/usr/bin/dpkg-query', '-W', '-f', '${Package} ${Version}\\n'],
                                   capture_output=True, text=True, check=True).stdout
    for pattern in REMOVED:
        for path in glob.glob(pattern):
            remove(path)
    for directory in DIRECTORIES:
        os.makedirs(directory, exist_ok=True)
    os.chmod('/tmp', 0o1777)
    write('/etc/hostname', 'spore\n')
    write('/etc/hosts', HOSTS)
    write('/etc/resolv.conf', '# spore-agent writes the name servers here.\n')
    write('/etc/machine-id', '')
    if os.path.exists('/usr/bin/git'):
        write('/etc/gitconfig', GITCONFIG)
    if guest_sources is not None:
        write('/etc/apt/sources.list', ''.join(f'{line}\n' for line in guest_sources))
        write('/etc/apt/apt.conf.d/90spore', 'Acquire::Languages "none";\n')
    add_user()
    if os.path.exists('/bin/busybox'):
        link_applets()
    return installed


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def write(path, text):
    """Writes a new file at `path`, not through what may be a link there."""
    if os.path.lexists(path):
        os.unlink(path)
    with open(path, 'w', encoding='utf-8') as target:
        target.write(text)


def append(path, line):
    with open(path, 'a', encoding='utf-8') as target:
        target.write(line)


def add_user():
    """The user `user`, without a password, and the directory that sandboxes work in."""
    with open('/etc/passwd', encoding='utf-8') as source:
        taken = [line.split(':') for line in source]
    if not any(fields[0] == 'user' or fields[2] == str(USER_ID) for fields in taken):
        shell = '/bin/bash' if os.path.exists('/bin/bash') else '/bin/sh'
        append('/etc/passwd', f'user:x:{USER_ID}:{USER_ID}:user:/home/user:{shell}\n')
        append('/etc/group', f'user:x:{USER_ID}:\n')
        append('/etc/shadow', 'user:!:19000:0:99999:7:::\n')
    if not os.path.isdir('/home/user'):
        if os.path.isdir('/etc/skel'):
            shutil.copytree('/etc/skel', '/home/user', symlinks=True)
        else:
            os.makedirs('/home/user')
        for base, directories, names in os.walk('/home/user'):
            for each in ['.', *directories, *names]:
                os.chown(os.path.join(base, each), USER_ID, USER_ID, follow_symlinks=False)
    os.makedirs('/workspace', exist_ok=True)
    os.chown('/workspace', USER_ID, USER_ID)


def link_applets():
    """Links busybox's applets where no command of that name is; a package's own later replaces it."""
    applets = subprocess.run(['/bin/busybox', '--list-full'], capture_output=True, text=True,
                             check=True).stdout.split()
    for applet in applets:
        name = os.path.basename(applet)
        if name in NOT_LINKED or any(os.path.lexists(f'{each}/{name}') for each in PATH):
            continue
        path = f'/{applet}'
        if os.path.isdir(os.path.dirname(path)):
            os.symlink('/bin/busybox', path)
