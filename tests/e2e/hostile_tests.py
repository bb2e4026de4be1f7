"""The attacking guest of tests/hostile on this host's KVM, where its ring 0 and its nested pages are not shadows."""

import os
import random
import re
import subprocess
import time

from host import Skipped, check, check_equal, read_text
from sandbox_tests import Sandbox

OPERATIONS = '100000'
# From within Linux: most of them in memory, a kick for each 512 (tests/hostile/linux/attack.c); of "config" each
# is an exit. No more than so long each.
LINUX_OPERATIONS = {'rng': 10_000_000, 'net': 10_000_000, 'vsock': 10_000_000, 'block': 10_000_000,
                    'config': 30_000}
DEVICE_LIMIT_S = 45
# Beside devices each is an exit too, and they go on at once; they end by the limit.
BESIDE_OPERATIONS, BESIDE_LIMIT_S = 10_000_000, 30
GUEST_BYTES, GROWTH_BYTES = 256 << 20, 64 << 20  # as tests/hostile/hostile_test.cc has it
CONSOLE_BYTES = 1 << 20  # kConsoleLogBytesMax


def attacks_in_vain(host):
    program = os.path.normpath(os.path.join(os.path.dirname(host.spore), '../../tests/hostile/hostile_test'))
    if not os.path.exists(program):
        raise Skipped(f'{program}: not built')
    done = subprocess.run([program], env=dict(os.environ, SPORE_HOSTILE_OPERATIONS=OPERATIONS), capture_output=True,
                          timeout=1200, text=True, check=False)
    check(done.returncode == 0 and '[  PASSED  ] 6 tests' in done.stdout, done.stdout[-2000:])


class Attacker:
    """A Linux sandbox whose root attacks its machine past the kernel (tests/hostile/linux/attack.c)."""

    def __init__(self, host, name):
        self.host, self.name = host, name
        self.pid = next(each['pid'] for each in host.json('list') if each['id'] == name)
        self.directory = os.path.join(host.home, 'sandboxes', name)
        self.seed = int(os.environ.get('SPORE_HOSTILE_SEED') or random.getrandbits(32))
        print(f'     hostile-linux: seed {self.seed}', flush=True)
        program = os.path.join(os.path.dirname(host.spore), '../../tests/hostile/hostile_linux')
        if not os.path.exists(program):
            raise Skipped(f'{program}: not built')
        host.run('cp', program, f'{name}:/root/attack')
        host.exec(name, 'echo 3 > /proc/sys/vm/nr_hugepages')

    def attack(self, *devices):
        """The command's words."""
        return ['/root/attack', str(self.seed), str(DEVICE_LIMIT_S),
                *(f'{device}={LINUX_OPERATIONS[device]}' for device in devices)]

    def take_from_driver(self, driver):
        self.host.exec(self.name, f'cd /sys/bus/virtio/drivers/{driver} && basename $(readlink -f virtio*/..) '
                                  '> /sys/bus/pci/drivers/virtio-pci/unbind')

    def start(self, *words):
        return self.host.start('exec', self.name, '--', *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def ends(self, running, target):
        """It says that it is done, and its sandbox still answers."""
        said = running.communicate(timeout=10 * DEVICE_LIMIT_S)[0].decode()
        check(running.returncode == 0 and f'{target} done' in said, f'status {running.returncode}: {said}')
        print('\n'.join(f'     {line}' for line in said.splitlines()), flush=True)
        check_equal(self.host.exec(self.name, 'echo here'), 'here', 'the attacker itself')

    def attack_alone(self, device, beside):
        """One that the guest can do without, and was taken from its driver; `beside` is asked meanwhile."""
        with self.start(*self.attack(device)) as running:
            beside()
            self.ends(running, device)
        log = self.log()
        check(re.search(r' warning \w+: queue \d+: .* needs a reset \(failure \d+\)', log) and len(log) < 65536,
              f'{len(log)} bytes of log: {log[:1000]}')

    def log(self):
        return read_text(os.path.join(self.directory, 'vmm.log'))

    def is_well(self):
        """False: its VM has ended, by what it did to itself."""
        if not os.path.exists(f'/proc/{self.pid}'):
            check('the VM ended' in self.log(), f'spore-vmm is gone: {self.log()[-1000:]!r}')
            return False
        size = re.search(r'^RssAnon:\s+(\d+)', read_text(f'/proc/{self.pid}/status'), re.M)
        check(not size or int(size.group(1)) << 10 <= GUEST_BYTES + GROWTH_BYTES, f'its memory: {size and size.group()}')
        return True

    def console(self):
        return read_text(os.path.join(self.directory, 'console.log'))


# Takes PID 1's connections to the host from it (pidfd_getfd), and writes into them.
WRITE_FRAMES = '''
import ctypes, os, socket, sys
init, call = os.pidfd_open(1), ctypes.CDLL(None).syscall
for number in os.listdir("/proc/1/fd"):
    fd = call(438, init, int(number), 0)
    try:
        connection = socket.socket(fileno=fd)
        connection.getpeername()
    except (OSError, ValueError):
        continue
    if connection.family == socket.AF_VSOCK:
        connection.send(bytes.fromhex(sys.argv[1]) + os.urandom(int(sys.argv[2])))
'''


def lies_to_its_host(host):
    """Frames that are none, in the agent's name: whoever asked is told, and nobody else hears of it."""
    with Sandbox(host, 'liar') as name:
        for length, bytes_behind in (('ffffffff', 4096), ('01004000', 4096), ('00000000', 64), ('40000000', 64),
                                     ('40000000', 20)):
            error = host.json('exec', name, '--', 'python3', '-c', WRITE_FRAMES, length, str(bytes_behind),
                              status=125)['error']
            check(error['code'] in ('corrupt', 'unavailable'), f'{length}: {error}')
            check_equal(host.exec(name, 'echo here'), 'here', f'after {length}: {error}')


def attacks_from_linux(host):
    with Sandbox(host, 'quiet') as quiet, Sandbox(host, 'attacker') as name:
        attacker = Attacker(host, name)

        def others_are_well():
            check_equal(host.exec(quiet, 'echo here'), 'here', 'the sandbox beside it')
            return attacker.is_well()

        attacker.take_from_driver('virtio_rng')
        attacker.attack_alone('rng', lambda: check(others_are_well(), 'the VM has ended'))
        # Those under its own feet, and every configuration register. Nothing of it may answer then, and
        # it may end or hang its own machine; its VMM answers as long as it is there.
        devices = ('vsock', 'block', 'config')
        host.run('process', 'start', name, '--', *attacker.attack(*devices))
        limit = time.monotonic() + DEVICE_LIMIT_S * (len(devices) + 1)
        while others_are_well() and 'hostile: config done' not in attacker.console() and time.monotonic() < limit:
            time.sleep(3)  # asking takes as much of the CPU as the attack
        for words in ('does not reset', 'changes memory'):
            check(words not in attacker.console(), f'a device {words}: {attacker.console()[-600:]}')
        done = re.findall(r'hostile: (\w+ done.*)', attacker.console())
        alive = others_are_well()
        print('\n'.join(f'     hostile-linux: {each}' for each in done)
              + ('' if alive else '\n     and then its machine ended'), flush=True)
        check(done and done[0].startswith('rng'), f'attacks that were carried out: {attacker.console()[-600:]}')
        if alive:
            stats = host.json('stats', name)
            check('disk, network' not in stats['not_known'], f'its VMM does not answer: {stats["not_known"]}')
    check_equal(host.json('list'), [], 'what is left')


def attacks_beside_devices(host):
    """Ports and holes at once, by Debian's kernel: the tuned one gives its programs none."""
    with Sandbox(host, 'quiet') as quiet, Sandbox(host, 'attacker', 'stock', cpus=2) as name:
        attacker = Attacker(host, name)
        # QEMU's TCG refuses `in` and `out` to programs once KVM has given a CPU its task register back, as a
        # clone's is (tests/hostile/guest/entry.S). One that was put off and on has loaded its own.
        host.exec(name, 'cd /sys/devices/system/cpu/cpu1 && echo 0 > online && echo 1 > online')

        def attack(cpu, target, seed):
            return attacker.start('taskset', '-c', str(cpu), '/root/attack', str(seed), str(BESIDE_LIMIT_S),
                                  f'{target}={BESIDE_OPERATIONS}')

        with attack(0, 'holes', attacker.seed) as holes, attack(1, 'ports', attacker.seed + 1) as ports:
            while holes.poll() is None or ports.poll() is None:
                check_equal(host.exec(quiet, 'echo here'), 'here', 'the sandbox beside it')
                check(attacker.is_well(), f'the VM has ended: {attacker.log()[-1000:]!r}')
                time.sleep(3)  # asking takes as much of the CPU as the attacks
            for running, target in (holes, 'holes'), (ports, 'ports'):
                attacker.ends(running, target)
        check(attacker.is_well(), 'the VM has ended')
        check_equal(attacker.log(), '', 'what it has had spore-vmm say')
        check(len(attacker.console()) <= CONSOLE_BYTES, f'{len(attacker.console())} bytes of console')
        stats = host.json('stats', name)
        check('disk, network' not in stats['not_known'], f'its VMM does not answer: {stats["not_known"]}')
    check_equal(host.json('list'), [], 'what is left')


TESTS = [('hostile-guest', attacks_in_vain), ('hostile-linux', attacks_from_linux),
         ('hostile-ports', attacks_beside_devices), ('hostile-frames', lies_to_its_host)]
