"""Tests that build images, from the network if need be."""

import json
import os
import signal
import subprocess
import time
import unittest

from tests import support


def images(home=None):
    path = os.path.join(home or support.settings.home, 'images')
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def image_path(name, *rest):
    return os.path.join(support.settings.home, 'images', name, *rest)


def description(name):
    with open(image_path(name, 'image.json'), encoding='utf-8') as source:
        return json.load(source)


def debugfs(path, request):
    return subprocess.run(['debugfs', '-R', request, path], capture_output=True, text=True,
                          check=True).stdout


def inside(path, name):
    """Whether the file system image `path` has `name`."""
    return 'Inode: ' in debugfs(path, f'stat {name}')


def build_busybox():
    support.need_root()
    done = support.build(name='test-busybox')
    assert done.returncode == 0, done.stderr
    return image_path('test-busybox')


def test_busybox_image_has_what_its_description_says():
    path = build_busybox()
    facts = description('test-busybox')
    assert facts['format'] == 1 and facts['name'] == 'test-busybox'
    assert facts['recipe'] == 'busybox' and facts['packages'] == []
    time.strptime(facts['created'], '%Y-%m-%dT%H:%M:%SZ')
    stock = facts['kernels']['stock']
    for each in (stock['vmlinux'], stock['vmlinuz'], stock['initramfs'], facts['rootfs']['path']):
        assert os.path.getsize(os.path.join(path, each)) == facts['files'][each]['size']
        digest = subprocess.run(['sha256sum', os.path.join(path, each)], capture_output=True,
                                text=True, check=True).stdout.split()[0]
        assert digest == facts['files'][each]['sha256']
    on_disk = set(support.tree(path)) - {'kernel', *(f'kernel/{k}' for k in facts['kernels'])}
    assert on_disk == {*facts['files'], 'image.json'}
    with open(os.path.join(path, stock['vmlinux']), 'rb') as kernel:
        assert kernel.read(4) == b'\x7fELF'


def test_busybox_root_is_sound():
    root = os.path.join(build_busybox(), 'rootfs.ext4')
    check = subprocess.run(['e2fsck', '-f', '-n', root], capture_output=True, text=True,
                           check=False)
    assert check.returncode == 0, check.stdout
    for name in ('/bin/busybox', '/bin/sh', '/etc/hosts', '/workspace', '/home/user', '/proc',
                 '/dev', '/usr/bin/wget'):
        assert inside(root, name), name
    assert debugfs(root, 'cat /etc/hostname') == 'spore\n'
    assert debugfs(root, 'cat /etc/machine-id') == ''
    assert 'user:x:1000:1000' in debugfs(root, 'cat /etc/passwd')
    assert 'User:  1000' in debugfs(root, 'stat /workspace')


def test_stock_initramfs_lists_every_module_it_has():
    path = build_busybox()
    archive = open(os.path.join(path, 'initramfs-stock.img'), 'rb').read()

    def read(name):
        return subprocess.run(['cpio', '-i', '--quiet', '--to-stdout', name], input=archive,
                              capture_output=True, check=True).stdout
    names = subprocess.run(['cpio', '-t', '--quiet'], input=archive, capture_output=True,
                           check=True).stdout.decode().split()
    listed = read('etc/spore/modules').decode().split()
    assert sorted(listed) == sorted('/' + name for name in names if name.endswith('.ko'))
    for module in ('virtio_ring', 'virtio_pci', 'virtio_blk', 'virtio_rng', 'virtio_net',
                   'vmw_vsock_virtio_transport', 'virtio_balloon', 'overlay'):
        assert f'/lib/modules/{module}.ko' in listed
    assert listed.index('/lib/modules/virtio_ring.ko') < listed.index('/lib/modules/virtio_pci.ko')
    assert read('lib/modules/virtio.ko').startswith(b'\x7fELF')


def test_building_again_does_nothing():
    path = build_busybox()
    before = os.stat(path)
    done = support.build(name='test-busybox')
    assert done.returncode == 0, done.stderr
    assert os.stat(path).st_ino == before.st_ino, 'it was built again'
    support.build('--force', name='test-busybox')
    assert os.stat(path).st_ino != before.st_ino, '--force did not build'


def test_new_agent_needs_no_new_root():
    path = build_busybox()
    root, archive = (os.stat(os.path.join(path, name)) for name in
                     ('rootfs.ext4', 'initramfs-stock.img'))
    done = support.build(name='test-busybox', agent=support.static_agent(7))
    assert done.returncode == 0, done.stderr
    assert os.stat(os.path.join(path, 'rootfs.ext4')).st_ino == root.st_ino
    assert os.stat(os.path.join(path, 'initramfs-stock.img')).st_ino != archive.st_ino


def test_changed_root_is_made_anew():
    path = os.path.join(build_busybox(), 'rootfs.ext4')
    with open(path, 'r+b') as target:
        target.seek(1 << 20)
        target.write(b'damage')
    done = support.build(name='test-busybox', agent=support.static_agent(8))
    assert done.returncode == 0, done.stderr
    assert subprocess.run(['e2fsck', '-f', '-n', path], capture_output=True,
                          check=False).returncode == 0
    with open(path, 'rb') as source:
        source.seek(1 << 20)
        assert source.read(6) != b'damage'


def test_bad_arguments_leave_nothing():
    home = support.scratch_directory()
    agent = support.static_agent(1)
    for arguments, status, word in (
            (dict(name='Bad_Name'), 64, 'Bad_Name'), (dict(name='a-'), 64, 'hyphen'),
            (dict(recipe='none'), 66, 'none'), (dict(recipe='./none.json'), 66, 'none.json'),
            (dict(agent='/nonexistent'), 66, 'nonexistent'), (dict(agent='/bin/bash'), 64, 'static')):
        support.expect_error(support.build(home=home, **{'agent': agent, **arguments}), status, word)
    support.expect_error(support.build('--kernel', 'fast', home=home, agent=agent), 64, 'fast')
    support.expect_error(support.build('--packages', 'a,,b', home=home, agent=agent), 64, 'empty')
    support.expect_error(support.program('build', '--name', 'x'), 64, '--agent')
    assert support.tree(home) == [], support.tree(home)


def test_errors_are_json_when_asked():
    done = support.build('--json', name='Bad', home=support.scratch_directory(),
                         agent=support.static_agent(1))
    error = json.loads(done.stdout)['error']
    assert done.returncode == 64 and error['code'] == 'invalid_argument' and 'Bad' in error['message']


def test_unknown_package_is_named_before_anything_is_made():
    support.need_root()
    build_busybox()
    done = support.build('--packages', 'no-such-package-here', name='test-none', recipe='debian')
    support.expect_error(done, 66, 'no-such-package-here')
    assert 'test-none' not in images() and not [n for n in images() if n.startswith('.')]


def test_root_that_does_not_fit_into_memory_is_made_on_the_disk():
    support.need_root()
    path = os.path.join(support.scratch_directory(), 'root.ext4')
    # In a process of its own: it gets a mount namespace.
    code = ("import sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv[1])\n"
            "from guest_image import failure, memory_disk, recipe, rootfs\n"
            "memory_disk.available_bytes = lambda: 1 << 20\n"
            "rootfs.make(recipe.load('busybox'), *sys.argv[2:5], failure.Progress(True))")
    work = support.scratch_directory()
    done = subprocess.run(['/usr/bin/python3', '-c', code, support.IMAGE_DIRECTORY, path, work,
                           os.path.join(support.settings.home, 'cache')], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'once more, on the disk' in done.stderr and inside(path, '/bin/busybox'), done.stderr
    assert os.stat(path).st_blocks * 512 < os.path.getsize(path) // 2, 'it is not sparse'


def test_only_root_builds():
    support.need_root()
    home = support.scratch_directory()
    for path in (support.settings.scratch, home):
        os.chmod(path, 0o777)
    done = subprocess.run(['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups',
                           os.path.join(support.IMAGE_DIRECTORY, 'build'), '--name', 'x', '--home',
                           home, '--agent', support.static_agent(1)], capture_output=True,
                          text=True, check=False)
    support.expect_error(done, 77, 'root')
    assert support.tree(home) == []


def wait_for(condition, what, limit_s=300):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f'no {what} after {limit_s} s'
        time.sleep(1)


def test_interrupted_build_leaves_nothing_and_keeps_the_old_image():
    path = build_busybox()
    inode = os.stat(path).st_ino
    for number in (signal.SIGINT, signal.SIGTERM):
        child = subprocess.Popen(
            [os.path.join(support.IMAGE_DIRECTORY, 'build'), '--name', 'test-busybox', '--recipe',
             'debian', '--agent', support.static_agent(), '--home', support.settings.home],
            stderr=subprocess.PIPE, text=True, start_new_session=True)
        marker = support.settings.home.encode() + b'/images/.test-busybox-'
        try:
            wait_for(lambda: child.poll() is not None or running(marker), 'mmdebstrap')
            child.send_signal(number)
            _, said = child.communicate(timeout=120)
        finally:
            if child.poll() is None:
                child.kill()
        assert child.returncode == 128 + number, (child.returncode, said)
        assert said.splitlines() == ['spore: image: interrupted'], said
        assert not running(marker), running(marker)
        assert not [name for name in images() if name.startswith('.')], images()
        assert os.stat(path).st_ino == inode
        with open('/proc/mounts', 'rb') as mounts:
            assert marker not in mounts.read()


def running(marker):
    """The processes that have `marker` in their arguments."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as source:
                if marker in source.read():
                    found.append(pid)
        except OSError:
            continue
    return found


def test_own_recipe_puts_in_files_and_runs_commands():
    support.need_root()
    directory = support.scratch_directory()
    support.write(os.path.join(directory, 'tool'), '#!/bin/sh\necho "$1" > /etc/made-by-tool\n')
    support.write(os.path.join(directory, 'own.json'), json.dumps({
        'format': 1, 'base': 'debian', 'packages': ['netbase'], 'free_space': '32M',
        'files': [{'path': '/opt/tool', 'source': 'tool', 'mode': '0755', 'owner': '0:7'},
                  {'path': '/etc/motd', 'content': "it's $HOME\n"}],
        'run': ["/opt/tool 'two  words'", 'ln -sf /etc/passwd /etc/hostname',
                'touch /etc/ssh_key; mkdir /etc/ssh; touch /etc/ssh/ssh_host_rsa_key']}))
    with open('/etc/passwd', 'rb') as source:
        before = source.read()
    root = os.path.join(directory, 'root.ext4')
    done = support.program('build-rootfs', '--recipe', os.path.join(directory, 'own.json'),
                           '--out', root, '--home', support.settings.home)
    assert done.returncode == 0, done.stderr
    assert debugfs(root, 'cat /etc/made-by-tool') == 'two  words\n'
    assert debugfs(root, 'cat /etc/motd') == "it's $HOME\n"
    tool = debugfs(root, 'stat /opt/tool')
    assert 'Mode:  0755' in tool and 'Group:     7' in tool, tool
    assert inside(root, '/etc/services') and not inside(root, '/usr/bin/python3')
    assert not inside(root, '/etc/ssh/ssh_host_rsa_key'), 'all guests would share a host key'
    # The link that the recipe left must not have led a write of ours into this machine's file.
    assert debugfs(root, 'cat /etc/hostname') == 'spore\n'
    with open('/etc/passwd', 'rb') as source:
        assert source.read() == before
    failing = support.write(os.path.join(directory, 'failing.json'), json.dumps({
        'format': 1, 'base': 'debian', 'run': ['echo no luck >&2; exit 3']}))
    done = support.program('build-rootfs', '--recipe', failing, '--out', root + '2', '--home',
                           support.settings.home)
    support.expect_error(done, 70, 'recipe', 'no luck')
    assert sorted(os.listdir(directory)) == ['failing.json', 'own.json', 'root.ext4', 'tool']


def test_debian_image_has_the_promised_programs():
    root = image_path('debian', 'rootfs.ext4')
    if not os.path.exists(root):
        raise unittest.SkipTest(f'no image debian in {support.settings.home}')
    for name in ('/bin/bash', '/usr/bin/python3', '/usr/bin/git', '/bin/busybox', '/usr/bin/vi',
                 '/usr/bin/curl', '/sbin/resize2fs', '/etc/ssl/certs/ca-certificates.crt'):
        assert inside(root, name), name
    for name in ('/usr/share/man/man1', '/usr/share/doc/git/README.md'):
        assert not inside(root, name), name
    for directory in ('/var/lib/apt/lists', '/var/cache/apt/archives', '/tmp', '/run'):
        names = [line.split('/')[5] for line in debugfs(root, f'ls -p {directory}').splitlines()
                 if line.startswith('/')]
        assert set(names) <= {'.', '..', 'lock', 'partial', 'auxfiles'}, (directory, names)
    check = subprocess.run(['e2fsck', '-f', '-n', root], capture_output=True, check=False)
    assert check.returncode == 0
