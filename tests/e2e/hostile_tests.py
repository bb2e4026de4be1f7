"""The attacking guest of tests/hostile on this host's KVM, where its ring 0 and its nested pages are not shadows."""

import os
import random
import re
import subprocess
import time

from host import Skipped, check, check_equal, read_text
from sandbox_tests import Sandbox

OPERATIONS = '300000'
LINUX_OPERATIONS = int(os.environ.get('SPORE_HOSTILE_OPERATIONS', 30_000))  # each; the other attackers do 10^7
ATTACK_LIMIT_S = 150
GUEST_BYTES, GROWTH_BYTES = 256 << 20, 64 << 20  # as tests/hostile/hostile_test.cc has it


def attacks_in_vain(host):
    program = os.path.normpath(os.path.join(os.path.dirname(host.spore), '../../tests/hostile/hostile_test'))
    if not os.path.exists(program):
        raise Skipped(f'{program}: not built')
    done = subprocess.run([program], env=dict(os.environ, SPORE_HOSTILE_OPERATIONS=OPERATIONS), capture_output=True,
                          timeout=1200, text=True, check=False)
    check(done.returncode == 0 and '[  PASSED  ] 5 tests' in done.stdout, done.stdout[-2000:])


class Attacker:
    """A Linux sandbox whose root attacks its devices past their drivers (tests/hostile/linux/attack.c)."""

    def __init__(self, host, name):
        self.host, self.name = host, name
        self.pid = next(each['pid'] for each in host.json('list') if each['id'] == name)
        self.directory = os.path.join(host.home, 'sandboxes', name)
        self.seed = os.environ.get('SPORE_HOSTILE_SEED') or random.getrandbits(32)
        print(f'     hostile-linux: seed {self.seed}', flush=True)
        program = os.path.join(os.path.dirname(host.spore), '../../tests/hostile/hostile_linux')
        if not os.path.exists(program):
            raise Skipped(f'{program}: not built')
        host.run('cp', program, f'{name}:/root/attack')
        host.exec(name, 'echo 3 > /proc/sys/vm/nr_hugepages')

    def attack(self, *devices):
        return f'/root/attack {self.seed} {LINUX_OPERATIONS} {" ".join(devices)}'

    def is_well(self):
        """False: its VM has ended, by what it did to itself."""
        if not os.path.exists(f'/proc/{self.pid}'):
            log = read_text(os.path.join(self.directory, 'vmm.log'))
            check('the VM ended' in log, f'spore-vmm is gone: {log[-1000:]!r}')
            return False
        size = re.search(r'^RssAnon:\s+(\d+)', read_text(f'/proc/{self.pid}/status'), re.M)
        check(not size or int(size.group(1)) << 10 <= GUEST_BYTES + GROWTH_BYTES, f'its memory: {size.group()}')
        return True

    def console(self):
        return read_text(os.path.join(self.directory, 'console.log'))


def attacks_from_linux(host):
    with Sandbox(host, 'quiet') as quiet, Sandbox(host, 'attacker') as name:
        attacker = Attacker(host, name)

        def others_are_well():
            check_equal(host.exec(quiet, 'echo here'), 'here', 'the sandbox beside it')
            return attacker.is_well()

        # A device that the guest can do without, taken from its driver: the sandbox itself goes on.
        host.exec(name, 'cd /sys/bus/virtio/drivers/virtio_rng && basename $(readlink -f virtio*/..) '
                        '> /sys/bus/pci/drivers/virtio-pci/unbind')
        with host.start('exec', name, '--', *attacker.attack('rng').split(), stdout=subprocess.PIPE) as running:
            check(others_are_well(), 'the VM has ended')
            said = running.communicate(timeout=300)[0].decode()
        check(running.returncode == 0 and 'rng done' in said, f'status {running.returncode}: {said}')
        check_equal(host.exec(name, 'echo here'), 'here', 'the attacker itself')
        # Those under its own feet, and every configuration register. Nothing of it may answer then, and
        # it may end or hang its own machine; its VMM answers as long as it is there.
        host.run('process', 'start', name, '--', *attacker.attack('vsock', 'block', 'config').split())
        limit = time.monotonic() + ATTACK_LIMIT_S
        while others_are_well() and 'hostile: config done' not in attacker.console() and time.monotonic() < limit:
            time.sleep(1)  # asking takes as much of the CPU as the attack
        check('does not reset' not in attacker.console(), f'a device hangs: {attacker.console()[-600:]}')
        done = re.findall(r'hostile: (\w+) done', attacker.console())
        alive = others_are_well()
        print(f'     hostile-linux: {LINUX_OPERATIONS} operations each: {" ".join(done)}'
              + ('' if alive else ', and then its machine ended'), flush=True)
        check_equal(done[:1], ['rng'], f'attacks that were carried out; console: {attacker.console()[-600:]}')
        if alive:
            stats = host.json('stats', name)
            check('disk, network' not in stats['not_known'], f'its VMM does not answer: {stats["not_known"]}')
    check_equal(host.json('list'), [], 'what is left')


TESTS = [('hostile-guest', attacks_in_vain), ('hostile-linux', attacks_from_linux)]
