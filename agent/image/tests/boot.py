"""Tests that boot what was built, in QEMU without KVM, so that any machine can run them."""

import os
import shutil
import subprocess
import unittest

from guest_image import initramfs
from tests import support
from tests.building import build_busybox, description, image_path

# An init in the agent's place: it does what the agent does to get to the root, and tells about it.
TEST_INIT = '''#!/bin/busybox sh
export PATH=/bin
for d in proc sys dev; do busybox mkdir -p /$d; done
busybox mount -t proc proc /proc; busybox mount -t sysfs sys /sys; busybox mount -t devtmpfs dev /dev
while read -r module; do busybox insmod "$module" || echo "FAILED-MODULE $module"; done \\
    < /etc/spore/modules
for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/vda ] && break; busybox sleep 1; done
busybox mount -t ext4 /dev/vda /newroot || echo FAILED-MOUNT
echo "cpus=$(busybox grep -c ^processor /proc/cpuinfo)"
echo "vsock=$(busybox test -c /dev/vsock && echo yes)"
echo "rng=$(busybox cat /sys/class/misc/hw_random/rng_current)"
echo "net=$(busybox ls -d /sys/class/net/eth0)"
busybox mount -t tmpfs t /run && busybox mkdir /run/l /run/u /run/w /run/m
busybox mount -t overlay -o lowerdir=/run/l,upperdir=/run/u,workdir=/run/w o /run/m && echo overlay=yes
echo written > /newroot/workspace/file && busybox cat /newroot/workspace/file
busybox chroot /newroot /bin/sh -c "$(busybox cat /command)"
busybox umount /newroot && echo unmounted=yes
echo SPORE-TEST-END
busybox sleep 1
busybox poweroff -f
'''
LIMIT_S = 300


def boot(kernel, image, name, cpus=1, command='echo shell=yes', memory='256M', kernel_file='vmlinux',
         disk_bytes=0):
    """The console's text of a guest that boots `kernel` and powers itself off.

    Its disk is the image's root, made larger to `disk_bytes` if they are given.
    """
    if not shutil.which('qemu-system-x86_64'):
        raise unittest.SkipTest('qemu-system-x86_64 is not installed')
    directory = support.scratch_directory()
    init = support.write(os.path.join(directory, 'init'), TEST_INIT)
    kernel_dir = unpack_modules(os.path.join(image, f'initramfs-{name}.img'), directory)
    added = [('/bin/busybox', 'bin/busybox'),
             (support.write(os.path.join(directory, 'command'), command), 'command')]
    disk = os.path.join(image, 'rootfs.ext4')
    if disk_bytes:
        disk = shutil.copyfile(disk, os.path.join(directory, 'disk'))
        os.truncate(disk, disk_bytes)
    archive = os.path.join(directory, 'initramfs.img')
    with open(archive, 'wb') as target:
        target.write(initramfs.make(init, kernel_dir, added, check_agent=False))
    try:
        done = subprocess.run(
            ['qemu-system-x86_64', '-M', 'q35', '-accel', 'tcg', '-cpu', 'max', '-smp', str(cpus),
             '-m', memory, '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none',
             '-serial', 'stdio', '-kernel', os.path.join(kernel, kernel_file), '-initrd', archive,
             '-append', 'console=ttyS0 panic=-1',
             '-drive', f'if=none,id=d,format=raw,snapshot=on,file={disk}',
             '-device', 'virtio-blk-pci,drive=d,disable-legacy=on',
             '-device', 'virtio-rng-pci,disable-legacy=on',
             '-netdev', 'user,id=n,restrict=on', '-device',
             'virtio-net-pci,netdev=n,disable-legacy=on,romfile=',
             '-device', 'virtio-balloon-pci,disable-legacy=on'],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as expired:
        raise AssertionError(f'not off after {LIMIT_S} s; its console:\n'
                             + (expired.stdout or b'').decode(errors='replace')[-3000:]) from expired
    console = done.stdout.decode(errors='replace')
    assert done.returncode == 0, done.stderr.decode(errors='replace')
    assert 'SPORE-TEST-END' in console, console[-3000:]
    assert 'FAILED' not in console, console[-3000:]
    for expected in (f'cpus={cpus}', 'overlay=yes', 'written', 'vsock=yes', 'rng=virtio_rng.0',
                     'net=/sys/class/net/eth0', 'unmounted=yes'):
        assert expected in console, f'no {expected}:\n{console[-3000:]}'
    return console


def unpack_modules(archive, directory):
    """A kernel directory, as build-kernel makes it, of the modules that are in an initramfs."""
    data = open(archive, 'rb').read()
    tree = os.path.join(directory, 'unpacked')
    os.makedirs(tree)
    subprocess.run(['cpio', '-id', '--quiet', '--no-absolute-filenames', 'lib/modules*',
                    'etc/spore/modules'], input=data, cwd=tree, check=True)
    os.rename(os.path.join(tree, 'lib/modules'), os.path.join(directory, 'modules'))
    with open(os.path.join(tree, 'etc/spore/modules'), encoding='utf-8') as source:
        support.write(os.path.join(directory, 'modules.list'),
                      ''.join(os.path.basename(line) for line in source))
    return directory


def need_tuned():
    path = build_busybox()
    if 'tuned' not in description('test-busybox')['kernels']:
        raise unittest.SkipTest('the tuned kernel is not made in this home')
    return path


def test_stock_kernel_boots_the_busybox_root():
    path = build_busybox()
    assert 'shell=yes' in boot(os.path.join(path, 'kernel/stock'), path, 'stock')


def test_stock_bzimage_boots_with_4_cpus():
    path = build_busybox()
    boot(os.path.join(path, 'kernel/stock'), path, 'stock', cpus=4, kernel_file='vmlinuz')


def test_tuned_kernel_boots_with_1_cpu():
    path = need_tuned()
    boot(os.path.join(path, 'kernel/tuned'), path, 'tuned')


def test_tuned_kernel_boots_with_4_cpus():
    path = need_tuned()
    boot(os.path.join(path, 'kernel/tuned'), path, 'tuned', cpus=4)


def test_tuned_bzimage_boots():
    path = need_tuned()
    boot(os.path.join(path, 'kernel/tuned'), path, 'tuned', kernel_file='vmlinuz')


def test_tuned_kernel_has_what_programs_expect():
    path = need_tuned()
    console = boot(os.path.join(path, 'kernel/tuned'), path, 'tuned', command=r'''
        mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
        mount -t cgroup2 cg /mnt && echo "cgroups=$(cat /mnt/cgroup.controllers)"
        unshare -mnpui true && ls /proc/self/ns | tr '\n' ' ' | sed 's/^/namespaces=/'; echo
        [ -c /dev/fuse ] && [ -c /dev/net/tun ] && echo devices=yes
        ip link set lo up && ping -c 1 ::1 && echo ipv6=yes
        umount /mnt /dev /sys /proc''')
    for expected in ('namespaces=cgroup ipc mnt net', 'time_for_children user uts', 'devices=yes',
                     'ipv6=yes'):
        assert expected in console, f'no {expected}:\n{console[-3000:]}'
    controllers = console.split('cgroups=')[1].splitlines()[0].split()
    assert {'cpu', 'memory', 'pids', 'io', 'cpuset'} <= set(controllers), controllers


def test_debian_root_runs_python_and_git():
    image = image_path('debian')
    if not os.path.exists(os.path.join(image, 'image.json')):
        raise unittest.SkipTest(f'no image debian in {support.settings.home}')
    console = boot(os.path.join(image, 'kernel/stock'), image, 'stock', memory='512M', disk_bytes=4 << 30,
                   command='''
        export HOME=/root; cd /workspace; echo "python=$(python3 -c 'print(6 * 7)')"
        git init -q r && cd r && echo x > f && git add f && git commit -qm one && git log --oneline |
            grep -c one | sed s/^/commits=/
        mount -t proc proc /proc; mount -t devtmpfs dev /dev
        /sbin/resize2fs /dev/vda > /tmp/log 2>&1 || cat /tmp/log; df -B 1M / | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2 | sed s/^/grown=/
        umount /dev /proc
        bash -c 'echo bash=${BASH_VERSION%%.*}'; ls -l /etc | busybox tail -n 1 > /dev/null && echo ok''')
    for expected in ('python=42', 'commits=1', 'bash=5'):
        assert expected in console, f'no {expected}:\n{console[-3000:]}'
    assert 'grown=' in console, console[-3000:]
    grown = int(console.split('grown=')[1].split()[0])
    assert 3700 <= grown <= 4096, f'the root on a disk of 4096 MiB has {grown}:\n{console[-1800:]}'
