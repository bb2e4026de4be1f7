"""Kernels and how they end: booted into a program of ours in the initramfs, without a disk."""

import os
import re
import shutil
import subprocess

from host import BOOT_LIMIT_S, Failed, Skipped, Vm, check, check_equal, wait_until

# PID 1 of these guests. It writes to the kernel's log at the highest level: that is on the serial
# port before the next line runs, and no `quiet` hides it.
INIT = '''#!/busybox sh
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sysfs /sys
/busybox mount -t devtmpfs devtmpfs /dev 2>/dev/null
say() { echo "<0>e2e: $*" > /dev/kmsg; }
say cpus $(/busybox nproc) memory $(/busybox awk '/MemTotal/ {print $2}' /proc/meminfo)
say clock $(/busybox cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
say work $(/busybox dd if=/dev/zero bs=1024 count=1024 2>/dev/null | /busybox sha256sum)
for word in $(/busybox cat /proc/cmdline); do
    case $word in
    e2e=poweroff) /busybox poweroff -f;;
    e2e=reboot) /busybox reboot -f;;
    e2e=panic) echo c > /proc/sysrq-trigger;;
    e2e=exit) exit 3;;
    esac
done
'''


def cpio_entry(name, mode, data):
    """One file of a newc archive (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    entry = b'070701' + b''.join(b'%08x' % field for field in fields) + name.encode() + b'\0'
    entry += bytes(-len(entry) % 4) + data
    return entry + bytes(-len(entry) % 4)


def initramfs(host, kernel):
    """The image's initramfs with busybox and INIT behind it: the kernel unpacks one after another."""
    busybox = shutil.which('busybox')
    if busybox is None:
        raise Skipped('busybox-static is not installed')
    path = os.path.join(host.work, f'initramfs-{kernel}')
    if not os.path.exists(path):
        with open(host.kernel_file(kernel, 'initramfs'), 'rb') as file:
            data = file.read()
        with open(busybox, 'rb') as file:
            data += bytes(-len(data) % 4) + cpio_entry('busybox', 0o100755, file.read())
        data += cpio_entry('e2e-init', 0o100755, INIT.encode()) + cpio_entry('TRAILER!!!', 0, b'')
        with open(path, 'wb') as file:
            file.write(data)
    return path


def boot(host, kernel, key, cpus, memory, task):
    """Boots to the end of the VM with `spore run`; (status, console, log)."""
    # Without `reboot=` the tuned kernel writes the reset register that the FADT names, and the stock
    # one goes where a BIOS would be (hypervisor/boot/acpi.h).
    how = 'reboot=t' if task in ('panic', 'exit') else ''
    done = subprocess.run(
        [host.spore, 'run', '--kernel', host.kernel_file(kernel, key),
         '--initrd', initramfs(host, kernel), '--memory', memory, '--cpus', str(cpus),
         '--cmdline', f'console=ttyS0 quiet loglevel=4 panic=-1 {how} rdinit=/e2e-init e2e={task}'],
        env=host.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=BOOT_LIMIT_S,
        check=False)
    return done.returncode, done.stdout.decode('utf-8', 'replace'), done.stderr.decode()


def said(console, word):
    found = re.search(rf'e2e: {word} (.*?)\s*$', console, re.MULTILINE)
    if not found:
        raise Failed(f'the guest did not say {word!r}; console: {console[-600:]!r}')
    return found.group(1).split()


def check_guest(console, cpus, memory_kib):
    words = said(console, 'cpus')
    check_equal(int(words[0]), cpus, 'nproc in the guest')
    seen = int(words[2])
    check(0.85 * memory_kib < seen <= memory_kib, f'MemTotal {seen} kB of {memory_kib} kB')
    check_equal(said(console, 'clock'), ['kvm-clock'], 'clock source')
    check_equal(said(console, 'work')[0],
                '30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58', 'SHA-256')


def boot_test(kernel, key, cpus, task='poweroff'):
    def test(host):
        if kernel not in host.kernels():
            raise Skipped(f'image {host.image} has no {kernel} kernel')
        status, console, log = boot(host, kernel, key, cpus, '512M', task)
        check_guest(console, cpus, 512 * 1024)
        check_equal(status, 0, f'status after {task}; log {log!r}')
    return test


def high_memory(host):
    pages, size = os.sysconf('SC_PHYS_PAGES'), os.sysconf('SC_PAGE_SIZE')
    if pages * size < 5 << 30:
        raise Skipped(f'this host has {pages * size >> 20}M of memory, 5120M are needed')
    # 500 MiB lie above the hole, and the guest's kernel hands out high memory first.
    status, console, log = boot(host, host.fast_kernel, 'vmlinux', 1, '3500M', 'poweroff')
    check_guest(console, 1, 3500 * 1024)
    check_equal(status, 0, f'status; log {log!r}')


def panic(host):
    """`panic=-1 reboot=t`: the kernel ends itself by a triple fault."""
    status, console, log = boot(host, host.fast_kernel, 'vmlinux', 1, '512M', 'panic')
    check('sysrq triggered crash' in console, f'no panic on the console: {console[-400:]!r}')
    check_equal(status, 70, f'status; log {log!r}')
    check('triple fault' in log, f'the log does not name the reason: {log!r}')


def init_ends(host):
    status, console, log = boot(host, host.fast_kernel, 'vmlinux', 1, '512M', 'exit')
    check('Attempted to kill init' in console, f'no panic on the console: {console[-400:]!r}')
    check_equal(status, 70, f'status; log {log!r}')


def quit_and_signals(host):
    """A running VM ends at once and in order when it is told to."""
    options = ('--kernel', host.kernel_file(host.fast_kernel, 'vmlinux'), '--memory', '256M',
               '--cmdline', 'console=ttyS0')
    with Vm(host, 'quit', *options) as vm:
        check_equal(vm.state(), ('running', 256 << 20, 1), 'state')
        vm.control('pause')
        check_equal(vm.state()[0], 'paused', 'state')
        vm.control('resume')
        check_equal(vm.state()[0], 'running', 'state')
        vm.control('quit')
        check_equal(vm.wait(60), 0, 'status after quit')
        check_equal(sorted(os.listdir(vm.directory)), ['console', 'log'], 'what is left behind')
    with Vm(host, 'term', *options) as vm:
        wait_until(lambda: os.path.exists(os.path.join(vm.directory, 'control')), 'control socket')
        vm.process.terminate()
        check_equal(vm.wait(60), 0, 'status after SIGTERM')
        check_equal(sorted(os.listdir(vm.directory)), ['console', 'log'], 'what is left behind')


TESTS = [
    ('run-quit', quit_and_signals),
    ('boot-tuned-vmlinux-1cpu', boot_test('tuned', 'vmlinux', 1)),
    ('boot-tuned-vmlinux-4cpus-reboot', boot_test('tuned', 'vmlinux', 4, 'reboot')),
    ('boot-tuned-bzimage-1cpu', boot_test('tuned', 'vmlinuz', 1)),
    ('boot-tuned-bzimage-4cpus', boot_test('tuned', 'vmlinuz', 4)),
    ('boot-memory-above-4g', high_memory),
    ('boot-panic', panic),
    ('boot-init-ends', init_ends),
    ('boot-stock-vmlinux-1cpu-reboot', boot_test('stock', 'vmlinux', 1, 'reboot')),
    ('boot-stock-vmlinux-4cpus', boot_test('stock', 'vmlinux', 4)),
    ('boot-stock-bzimage-1cpu', boot_test('stock', 'vmlinuz', 1)),
    ('boot-stock-bzimage-4cpus', boot_test('stock', 'vmlinuz', 4)),
]
