"""A sandbox that burns, fills and floods all that it has, and what another one beside it feels of that."""

import contextlib
import os
import re
import subprocess
import time

from agent import Agent
from host import Skipped, check, check_equal, not_yet, wait_until
from network_tests import ip

SINK = '203.0.113.9'
ROUNDS = 200
# Half of the one CPU for each; the promise is about these.
MEDIAN_MOST, P99_MOST = 1.5, 3
QUOTAS = ('--cpu-max', '0.5', '--pids-max', '200', '--memory-max', '160M', '--io-max', '10M', '--net-max', '1M')
# Each in a process of its own, until its sandbox ends, and of programs that start fast. An `x` in the name of a file
# tells that it is at work. What takes the guest's last process is begun last.
NOISES = {
    'memory': 'M="dd if=/dev/zero of=/dev/null bs=64M"; $M count=1 && touch /tmp/x-memory; exec $M',
    'disk': 'F() { dd if=/dev/zero of=/root/fill bs=64k count=16 conv=fsync && rm /root/fill; }; '
            'F && touch /tmp/x-disk; while :; do F; done',
    'network': f'F() {{ dd if=/dev/zero bs=1400 count=100 >/dev/udp/{SINK}/9; }}; '
               'F && touch /tmp/x-network; while :; do F; done',
    'console': 'F() { echo noise >/dev/ttyS0 && echo noise >/dev/kmsg; }; F && touch /tmp/x-console; while :; do F; done',
    'commands': '/bin/true && touch /tmp/x-commands; while :; do /bin/true; done',
    'cpu': 'touch /tmp/x-cpu; while :; do :; done',
    'cpu2': 'touch /tmp/x-cpu2; while :; do :; done',
    'forks': 'touch /tmp/x-forks; f() { f & f & sleep 1; }; while :; do f; done',
}


class Noise:
    """A sandbox that does all of NOISES, with clients that ask for output without end: one reads it, four do not."""

    def __init__(self, host, name, template, quotas=QUOTAS):
        self.host, self.name, self.clients = host, name, []
        host.run('create', name, '--template', template, '--network', 'egress', '--owner', 'other', *quotas)

    def begin(self):
        for what, command in NOISES.items():
            self.host.run('process', 'start', '--name', what, self.name, '--', 'bash', '-c', command)
            if what not in ('cpu', 'cpu2', 'forks'):
                begun = time.monotonic()
                wait_until(lambda what=what: f'x-{what}' in self.at_work(), f'noise: {what}', 300)
                print(f'     {what} after {time.monotonic() - begun:.1f} s', flush=True)
        for sink in (subprocess.DEVNULL, *[subprocess.PIPE] * 4):
            self.clients.append(self.host.start('exec', self.name, '--', 'yes', stdout=sink,
                                                stderr=subprocess.DEVNULL))
        expected = sorted(f'x-{what}' for what in NOISES)
        wait_until(lambda: self.at_work() == expected, 'all kinds of noise', 300)

    def at_work(self):
        """By its files: it has no room for a process more."""
        done = self.host.run('file', 'list', '--json', self.name, '/tmp', status=None)
        return sorted(set(re.findall(r'x-\w+', done.stdout.decode())))

    def end(self):
        for client in self.clients:
            with contextlib.suppress(ProcessLookupError):
                client.kill()
            client.wait()
            if client.stdout:
                client.stdout.close()
        self.clients = []
        self.host.run('destroy', self.name, status=None)


@contextlib.contextmanager
def sink():
    """The host has a way to SINK, where nobody is."""
    if os.geteuid() != 0:
        raise Skipped('needs root, for namespaces')
    with open('/proc/sys/net/ipv4/ip_forward', 'w', encoding='ascii') as file:
        file.write('1')
    ip('link', 'add', 'e2e-sink', 'type', 'veth', 'peer', 'name', 'e2e-sunk')
    try:
        for words in ('link set e2e-sink up', 'link set e2e-sunk up', 'address add 192.0.2.1/24 dev e2e-sink',
                      f'route add {SINK}/32 dev e2e-sink', f'neigh add {SINK} lladdr 02:00:00:00:00:09 dev e2e-sink'):
            ip(*words.split())
        yield
    finally:
        ip('link', 'del', 'e2e-sink')


@contextlib.contextmanager
def with_card(host):
    """The name of a template whose clones have networks; somebody's, and public."""
    with sink():
        host.run('template', 'create', 'noise', '--image', host.image, '--kernel', host.fast_kernel,
                 '--memory', '256M', '--disk', '2G', '--network', 'egress', '--owner', 'maker', '--public')
        try:
            yield 'noise'
        finally:
            host.run('template', 'remove', 'noise')


def exec_times(host, name, rounds):
    """Seconds of each of `rounds` commands, from the request to the end, over one connection."""
    agent, times = Agent(os.path.join(host.home, 'sandboxes', name, 'v'), 60), []
    try:
        for _ in range(rounds):
            begun = time.monotonic()
            check_equal(agent.run('/bin/true').status, 0, 'status of /bin/true')
            times.append(time.monotonic() - begun)
    finally:
        agent.close()
    return times


def measure(host, rounds=ROUNDS):
    """Times of a quiet sandbox's commands: alone, before and after; and beside a noisy one."""
    with with_card(host) as template:
        check_equal(host.json('template', 'inspect', template)['public'], True, 'public')
        host.run('create', 'quiet', '--template', template, *QUOTAS)
        noise = Noise(host, 'noisy', template)
        try:
            exec_times(host, 'quiet', 5)  # what it touches first
            alone = exec_times(host, 'quiet', rounds // 2)
            noise.begin()
            beside = exec_times(host, 'quiet', rounds)
            check_equal(len(noise.at_work()), len(NOISES), 'kinds of noise, at the end')
            noise.end()
            alone += exec_times(host, 'quiet', rounds - rounds // 2)
        finally:
            noise.end()
            host.run('destroy', 'quiet')
    return alone, beside


def at(times, part):
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


def quiet_neighbour(host):
    alone, beside = measure(host)
    median, p99 = (at(beside, part) / at(alone, part) for part in (0.5, 0.99))
    print(f'     median alone {at(alone, 0.5) * 1e3:.1f} ms, beside a noisy one {median:.2f} times that; '
          f'p99 {at(alone, 0.99) * 1e3:.1f} ms, {p99:.2f} times that', flush=True)
    check(median <= MEDIAN_MOST, f'the median is {median:.2f} times that of a quiet host')
    check(p99 <= P99_MOST, f'p99 is {p99:.2f} times that of a quiet host')


# All of its noise was going once, with an agent of nice -20, on a machine too busy for the ratios to mean anything.
TESTS = [('quiet-neighbour', not_yet(quiet_neighbour, 'passed once, on a busy machine; without a word about ratios'))]
