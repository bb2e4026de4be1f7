"""A sandbox that burns, fills and floods all that it has, and what another one beside it feels of that."""

import contextlib
import os
import re
import signal
import subprocess
import time

from agent import Agent
from host import Skipped, check, check_equal, wait_until
from network_tests import ip

SINK = '203.0.113.9'
ROUNDS, TURNS = 200, 10
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
        self.pid = next(each['pid'] for each in host.json('list') if each['id'] == name)

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
        wait_until(self.all_at_work, 'all kinds of noise', 300)

    def all_at_work(self):
        return self.at_work() == sorted(f'x-{what}' for what in NOISES)

    def at_work(self):
        """By its files: it has no room for a process more."""
        done = self.host.run('file', 'list', '--json', self.name, '/tmp', status=None)
        if done.returncode != 0:
            print(f'     noisy: {(done.stdout + done.stderr).decode("utf-8", "replace").strip()[-300:]}', flush=True)
        return sorted(set(re.findall(r'x-\w+', done.stdout.decode())))

    @contextlib.contextmanager
    def silent(self):
        """All of it stands still, its clients for want of output."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

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


def exec_times(agent, rounds):
    """Seconds of each of `rounds` commands, from the request to the end, over one connection."""
    times = []
    for _ in range(rounds):
        begun = time.monotonic()
        check_equal(agent.run('/bin/true').status, 0, 'status of /bin/true')
        times.append(time.monotonic() - begun)
    return times


@contextlib.contextmanager
def neighbours(host):
    """The agent of a quiet sandbox, and a noisy one beside it that does all of NOISES."""
    with with_card(host) as template:
        check_equal(host.json('template', 'inspect', template)['public'], True, 'public')
        host.run('create', 'quiet', '--template', template, *QUOTAS)
        noise = Noise(host, 'noisy', template)
        try:
            with contextlib.closing(Agent(os.path.join(host.home, 'sandboxes', 'quiet', 'v'), 60)) as agent:
                exec_times(agent, 5)  # what it touches first
                noise.begin()
                yield agent, noise
                wait_until(noise.all_at_work, 'all kinds of noise, at the end', 120)
        finally:
            noise.end()
            host.run('destroy', 'quiet')


def measure(agent, noise, rounds=ROUNDS):
    """Times of a quiet sandbox's commands, alone and beside a noisy one, in turns: what else this host does hits
    both."""
    alone, beside = [], []
    for _ in range(TURNS):
        beside += exec_times(agent, rounds // TURNS)
        with noise.silent():
            alone += exec_times(agent, rounds // TURNS)
    return alone, beside


def at(times, part):
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


def quiet_neighbour(host):
    """One of three times: of 200 commands the two that took longest are not told by p99, and what else this machine
    does may stop the emulated host for longer than that."""
    said = []
    with neighbours(host) as (agent, noise):
        while not said or (not holds and len(said) < 3):
            alone, beside = measure(agent, noise)
            median, p99 = (at(beside, part) / at(alone, part) for part in (0.5, 0.99))
            holds = median <= MEDIAN_MOST and p99 <= P99_MOST
            said.append(f'median alone {at(alone, 0.5) * 1e3:.1f} ms, beside a noisy one {median:.2f} times that; '
                        f'p99 {at(alone, 0.99) * 1e3:.1f} ms, {p99:.2f} times that')
            print(f'     {said[-1]}', flush=True)
    check(holds, '; '.join(said))


TESTS = [('quiet-neighbour', quiet_neighbour)]
