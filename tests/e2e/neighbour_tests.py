"""A sandbox that burns, fills and floods all that it has, and what another one beside it feels of that."""

import contextlib
import os
import re
import subprocess
import time

from agent import Agent
from host import check, check_equal, not_yet, wait_until

ROUNDS = 40
# Of the medians, whatever else the machine does. How much slower it is, bench/run isolation measures and judges.
STARVED = 5
QUOTAS = ('--cpu-max', '0.5', '--pids-max', '200', '--memory-max', '160M')
# Each in a process of its own, until its sandbox ends. An `x` in the name of a file tells that it is at work.
NOISES = {
    'cpu': 'touch /tmp/x-cpu; while :; do :; done',
    'cpu2': 'touch /tmp/x-cpu2; while :; do :; done',
    'memory': '''exec python3 -c "
import mmap, os
areas = []
while len(areas) < 20:
    areas.append(mmap.mmap(-1, 4 << 20))
    for place in range(0, 4 << 20, 4096):
        areas[-1][place] = 1
open('/tmp/x-memory', 'w').close()
while True:
    for area in areas:
        for place in range(0, 4 << 20, 4096):
            area[place] = area[place] + 1 & 255
"''',
    'disk': 'touch /tmp/x-disk; while :; do dd if=/dev/urandom of=/root/fill bs=64k count=64 conv=fsync; '
            'rm /root/fill; done',
    'console': 'touch /tmp/x-console; while :; do seq 1000 >/dev/ttyS0; seq 1000 >/dev/kmsg; done',
    'commands': 'touch /tmp/x-commands; while :; do /bin/true; done',
    'forks': 'touch /tmp/x-forks; f() { f & f & sleep 1; }; while :; do f; done',
}


class Noise:
    """A sandbox that does all of NOISES, with a client that asks for output without end and does not read it."""

    def __init__(self, host, name, template, quotas=QUOTAS):
        self.host, self.name, self.clients = host, name, []
        host.run('create', name, '--template', template, *quotas)

    def begin(self):
        for what, command in NOISES.items():
            self.host.run('process', 'start', '--name', what, self.name, '--', 'sh', '-c', command)
        for _ in range(4):
            self.clients.append(self.host.start('exec', self.name, '--', 'yes', stdout=subprocess.PIPE,
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
            client.stdout.close()
        self.host.run('destroy', self.name, status=None)


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


def measure(host, template, rounds=ROUNDS):
    """Times of a quiet sandbox's commands: alone, and beside a noisy one."""
    host.run('create', 'quiet', '--template', template, *QUOTAS)
    noise = Noise(host, 'noisy', template)
    try:
        exec_times(host, 'quiet', 5)  # what it touches first
        alone = exec_times(host, 'quiet', rounds)
        noise.begin()
        beside = exec_times(host, 'quiet', rounds)
        check_equal(len(noise.at_work()), len(NOISES), 'kinds of noise, at the end')
    finally:
        noise.end()
        host.run('destroy', 'quiet', status=None)
    return alone, beside


def quiet_neighbour(host):
    alone, beside = (sorted(times) for times in measure(host, host.template(host.fast_kernel)))
    ratio = beside[len(beside) // 2] / alone[len(alone) // 2]
    print(f'     median alone {alone[len(alone) // 2] * 1e3:.1f} ms, beside a noisy one {ratio:.2f} times that',
          flush=True)
    check(ratio <= STARVED, f'the median is {ratio:.2f} times that of a quiet host')


# Run twice on a busy machine: not all of the noise was seen at work in 300 s, asked by a command for which the
# forks had left no room. It asks by files now, which has not been tried.
TESTS = [('quiet-neighbour', not_yet(quiet_neighbour, 'not seen to pass yet'))]
