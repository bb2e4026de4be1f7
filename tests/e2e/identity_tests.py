"""What makes a clone one of its own, and what becomes of one that does not confirm that it is."""

import os
import select
import signal
import subprocess
import time

from agent import Agent
from carry_tests import last_stream
from host import Vm, check, check_equal, wait_until
from pool_tests import Pool, no_pool_left
from sandbox_tests import Sandbox, nothing_left

AT_ONCE = 8
UNIQUE = ('cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id /etc/machine-id; '
          'head -c 16 /dev/urandom | od -An -tx1 | tr -d " "; hostname')
# Each CPU's generator has a key of its own, which the snapshot knows.
EACH_CPU = 'for c in 0 1; do taskset -c $c head -c 16 /dev/urandom | od -An -tx1 | tr -d " "; done'
JAILED = {'user', 'mount', 'pid', 'network', 'ipc', 'uts', 'empty_root', 'unprivileged_user', 'capabilities',
          'no_new_privileges', 'not_dumpable', 'rlimits', 'descriptors', 'seccomp'}


def eight_at_once(host):
    """Of one template, at the same moment (pool-many has them by a pool)."""
    template = host.template(host.fast_kernel)
    names = [f'own-{number}' for number in range(AT_ONCE)]
    creators = [host.start('create', name, '--template', template, '--timeout', '250s',
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for name in names]
    try:
        errors = [creator.communicate(timeout=300)[1] for creator in creators]
        check(not any(creator.returncode for creator in creators),
              f'create failed: {[error for error in errors if error]}')
        seen = [host.exec(name, UNIQUE).split() for name in names]
        check_equal([lines[4] for lines in seen], names, 'host names')
        for column, what in enumerate(('UUID', 'boot ID', 'machine ID', '/dev/urandom')):
            check_equal(len({lines[column] for lines in seen}), AT_ONCE, f'different values of {what}')
            check(all(len(lines[column]) >= 32 for lines in seen), f'{what}: {seen[0][column]}')
        jails = {each['id']: each['jail'] for each in host.json('list')}
        for name in names:
            check(jails[name] is not None, f'{name}: tells nothing of its jail')
            missing = {item: jails[name].get(item) for item in JAILED
                       if not jails[name].get(item, {}).get('holds')}
            check_equal(missing, {}, f'{name}: what of its jail does not hold')
            unexplained = [item for item, said in jails[name].items() if not said['holds'] and not said.get('why')]
            check_equal(unexplained, [], f'{name}: what does not hold, without a reason')
    finally:
        host.run('destroy', *names, status=None)
    nothing_left(host)


def random_of_each_cpu(host):
    seen = []
    for name in ('twin-1', 'twin-2'):
        with Sandbox(host, name, cpus=2):
            seen += host.exec(name, EACH_CPU).split()
    check(all(len(number) == 32 for number in seen), f'random numbers: {seen}')
    check_equal(len(set(seen)), 4, f'different random numbers of two CPUs in two clones ({seen})')


def fails_by_timeout(host, name, *options, limit='3s'):
    begun = time.monotonic()
    error = host.json('create', name, '--timeout', limit, *options, status=None).get('error')
    check(error is not None, f'{name}: was created within {limit}')
    check_equal(error['code'], 'timeout', f'{name}: error code ({error["message"]})')
    check(name in error['message'], f'does not name the sandbox: {error["message"]}')
    check(time.monotonic() - begun < 60, f'{name}: took {time.monotonic() - begun:.0f} s to fail')


def no_time(host):
    """Limits at which it cannot confirm, however early or late they strike."""
    template = host.template(host.fast_kernel)
    for number, limit in enumerate(('1ms', '5ms', '20ms', '60ms')):
        fails_by_timeout(host, f'late-{number}', '--template', template, '--cold', limit=limit)
        nothing_left(host)


def frozen(host):
    """A clone that has stopped, from either waiting place: its answer never comes."""
    for kind in ('parked', 'ready'):
        with Pool(host, **{kind: 1}) as pool:
            keeper = pool.status()['keeper_pid']
            vmms = host.vmm_processes()
            waiting = [pid for pid in vmms if parent_of(pid) in vmms]  # the zygote's children
            os.kill(keeper, signal.SIGSTOP)  # no other is made
            try:
                check_equal(len(waiting), 1, 'clones that wait')
                os.kill(waiting[0], signal.SIGSTOP)
                fails_by_timeout(host, 'stopped', '--template', pool.template)
                wait_until(lambda: waiting[0] not in host.vmm_processes(), 'the end of the clone')
                check_equal(host.json('list'), [], 'spore list')
                check_equal(os.listdir(os.path.join(host.home, 'sandboxes')), [], 'left in sandboxes')
            finally:
                os.kill(keeper, signal.SIGCONT)
            check_equal(pool.create('stopped')['id'], 'stopped', 'the next one of that name')
        no_pool_left(host)


def parent_of(pid):
    with open(f'/proc/{pid}/stat', encoding='utf-8', errors='replace') as file:
        return int(file.read().rsplit(')', 1)[1].split()[1])


def runs_nothing_before(host):
    """What a --prepare command has left running stands still until the clone has its identity."""
    name = 'heart'
    if not os.path.exists(os.path.join(host.home, 'templates', name, 'template.json')):
        host.run('template', 'create', name, '--image', host.image, '--kernel', host.fast_kernel,
                 '--memory', '256M', '--disk', '2G', '--prepare',
                 'setsid sh -c "while true; do echo heart; sleep 0.1; done" > /dev/ttyS0 2>&1 < /dev/null &')
    source = os.path.join(host.home, 'templates', name)
    with Vm(host, 'sealed', '--restore', source, '--disk', 'top') as vm:
        wait_until(lambda: os.path.exists(vm.vsock_path), 'the vsock socket')
        vm.agent = Agent.attach(vm.vsock_path, last_stream(source), 60)
        # It runs: another connection is answered, and its kernel's clock goes on.
        for _ in range(3):
            other = vm.new_agent()
            check(other.sealed, 'a clone without identity is not sealed')
            other.close()
            select.select([], [], [], 1)
        check('heart' not in vm.console(), 'a command ran before the clone had its identity')
        vm.agent.identify('heart')
        wait_until(lambda: 'heart' in vm.console(), 'the command to go on')


TESTS = [
    ('identity-8-at-once', eight_at_once),
    ('identity-2cpus', random_of_each_cpu),
    ('identity-no-time', no_time),
    ('identity-frozen', frozen),
    ('identity-first', runs_nothing_before),
]
