"""A cgroup for each sandbox, seen from outside: by /proc and by the hierarchy itself."""

import os
import random
import signal
import subprocess

from host import Skipped, check, check_equal, wait_until
from pool_tests import Pool, no_pool_left

MOUNTS = ('/sys/fs/cgroup', '/sys/fs/cgroup/unified')


def mount():
    """Where the v2 hierarchy is."""
    for path in MOUNTS:
        if os.path.exists(os.path.join(path, 'cgroup.controllers')):
            return path
    raise Skipped('this host has no cgroup v2')


def text_of(path):
    with open(path, encoding='utf-8') as file:
        return file.read()


def cgroup_of(pid):
    lines = [line for line in text_of(f'/proc/{pid}/cgroup').splitlines() if line.startswith('0::')]
    return lines[0][3:]


def is_kernels(pid):
    """KVM puts a thread of its own beside each VM (kvm-nx-lpage-recovery, until Linux 6.13)."""
    return text_of(f'/proc/{pid}/cmdline') == ''


def all_cgroups():
    parent = os.path.join(mount(), 'spore')
    return {name for name in os.listdir(parent) if name[0] != '.' and os.path.isdir(os.path.join(parent, name))} \
        if os.path.isdir(parent) else set()


def own_cgroups(host, names):
    """Path of each sandbox's, which is what /proc says of its process too, and no other's."""
    listed = {each['id']: each for each in host.json('list')}
    paths = {}
    for name in names:
        item = listed[name]['jail']['cgroup']
        check(item['holds'], f'{name}: {item}')
        check_equal(cgroup_of(listed[name]['pid']), item['path'], f'{name}: /proc/PID/cgroup')
        procs = [pid for pid in text_of(mount() + item['path'] + '/cgroup.procs').split()
                 if not is_kernels(pid)]
        check_equal(procs, [str(listed[name]['pid'])], f'{name}: processes in its cgroup')
        paths[name] = item['path']
    check_equal(len(set(paths.values())), len(paths), 'different cgroups')
    return paths


def one_for_each(host):
    base = mount()
    before = all_cgroups()
    with Pool(host, parked=1, ready=1) as pool:
        keeper = pool.status()['keeper_pid']
        waiting = {cgroup_of(pid) for pid in host.vmm_processes()}
        check_equal(len(waiting), 3, 'different cgroups of the zygote and those that wait')
        os.kill(keeper, signal.SIGSTOP)
        sources = [pool.create(name)['source'] for name in ('parked', 'ready', 'cold')]
        os.kill(keeper, signal.SIGCONT)
        check_equal(sources, ['parked', 'ready', 'cold'], 'where they came from')
        paths = own_cgroups(host, pool.names)
        for name in ('parked', 'ready'):
            check(paths[name] in waiting, f'{name}: {paths[name]} is not what it waited in')
        check(paths['cold'] not in waiting, 'cold: the cgroup of one that waited')
        root = set(text_of(base + '/cgroup.controllers').split()) & {'cpu', 'memory', 'io', 'pids'}
        for name, path in paths.items():
            has = set(text_of(base + path + '/cgroup.controllers').split())
            check(root <= has, f'{name}: controllers {has}, the host has {root}')
            if 'memory' in root:
                used = int(text_of(base + path + '/memory.current'))
                check(0 < used < 256 << 20, f'{name}: memory.current is {used}')
        host.run('destroy', *pool.names)
        pool.names.clear()
        wait_until(lambda: pool.waiting() == (1, 1) and len(host.vmm_processes()) == 3,
                   'the sandboxes to be gone and the pool to be full', 120)
        host.json('list')
        for name, path in paths.items():
            check(not os.path.exists(base + path), f'{name}: {path} is still there')
        check_equal(len(all_cgroups() - before), 3, 'cgroups, the zygote\'s and of those that wait')
    no_pool_left(host)
    check_equal(all_cgroups() - before, set(), 'left cgroups')


def one_that_was_moved(host):
    """Whoever moves a sandbox's process has taken its limits away: it is said."""
    base = mount()
    host.run('create', 'moved', '--template', host.template(host.fast_kernel), '--cold')
    other = os.path.join(base, f'e2e-{os.getpid()}')
    try:
        pid = host.json('list')[0]['pid']
        os.mkdir(other)
        with open(os.path.join(other, 'cgroup.procs'), 'w', encoding='utf-8') as file:
            file.write(str(pid))
        item = host.json('list')[0]['jail']['cgroup']
        check(not item['holds'] and os.path.basename(other) in item['why'], f'it says {item}')
    finally:
        host.run('destroy', 'moved')
        wait_until(lambda: not host.vmm_processes(), 'the end of spore-vmm')
        os.rmdir(other)


def none_if_not_wanted(host):
    mount()
    template = host.template(host.fast_kernel)
    done = subprocess.run([host.spore, 'create', 'without', '--template', template, '--cold'],
                          env=dict(host.environment, SPORE_CGROUP='none'), capture_output=True,
                          timeout=300, check=False)
    check_equal(done.returncode, 0, f'status ({done.stderr!r})')
    try:
        item = host.json('list')[0]['jail']['cgroup']
        check_equal(item, {'holds': False, 'why': "SPORE_CGROUP is 'none'"}, 'what it says')
        check_equal(host.exec('without', 'hostname'), 'without', 'a sandbox without a cgroup')
    finally:
        host.run('destroy', 'without')


def none_left_by_the_killed(host):
    """Creators, destroyers, VMs and a keeper killed at random: the next command removes what is empty."""
    before = all_cgroups()
    seed = random.randrange(1 << 32)
    print(f'     seed {seed}', flush=True)
    dice = random.Random(seed)
    with Pool(host, parked=1, ready=1) as pool:
        for number in range(12):
            name = f'doomed-{number}'
            victim = host.start('create', name, '--template', pool.template, *(['--cold'] * (number % 2)),
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                victim.wait(dice.uniform(0, 2))
            except subprocess.TimeoutExpired:
                victim.kill()
                victim.wait()
            if number % 3 == 0:
                for pid in host.vmm_processes()[:1]:
                    os.kill(pid, signal.SIGKILL)
            if number % 4 == 0:
                victim = host.start('destroy', name, stderr=subprocess.DEVNULL)
                try:
                    victim.wait(dice.uniform(0, 0.5))
                except subprocess.TimeoutExpired:
                    victim.kill()
                    victim.wait()
        os.kill(pool.status()['keeper_pid'], signal.SIGKILL)
        left = [each['id'] for each in host.json('list')]
        if left:
            host.run('destroy', *left)
    wait_until(lambda: not host.vmm_processes(), 'the end of every spore-vmm', 120)
    host.json('list')
    check_equal(all_cgroups() - before, set(), 'left cgroups')
    no_pool_left(host)


TESTS = [
    ('cgroup-each', one_for_each),
    ('cgroup-moved', one_that_was_moved),
    ('cgroup-unwanted', none_if_not_wanted),
    ('cgroup-killed', none_left_by_the_killed),
]
