"""What limits hold sandboxes to, and what is told of it: tests of tests/network/run."""

import collections
import os
import subprocess
import time

import inventory
from world import Skipped, check, remove_cgroup, wait_until


def what_is_not_enforced_is_told(rig):
    """By doctor, create, update and stats alike, whichever cgroups this host has; and what holds without, holds."""
    rig.make('first', template='plain')  # as it has cgroups made, which tells what the host hands on
    rig.run('destroy', 'first')
    quotas = next(each for each in rig.json_of_any('doctor')['checks'] if each['name'] == 'quotas')
    missing = {name for name, option in (('cpu_max', '--cpu-max'), ('cpu_weight', '--cpu-weight'),
                                         ('vmm_memory', 'a VMM\'s memory')) if option in quotas['found']}
    check(quotas['good'] == (not missing and 'threads' not in quotas['found']), quotas)
    words = ('--cpu-max', '0.5', '--cpu-weight', '50')
    asked = {'cpu_max', 'cpu_weight'}
    made = rig.make('q', *words, template='plain')
    told = set(made['not_enforced'])
    check(told & asked == missing & asked, f'create says {told}, doctor {missing}')
    stats = rig.json('stats', 'q')
    told = set(stats['not_enforced'])
    check(told & asked == missing & asked, f'stats says {told}, doctor {missing}')
    update = rig.json('update', 'q', '--cpu-max', '0.7')
    told = set(update['not_enforced'])
    check(told & {'cpu_max'} == missing & {'cpu_max'}, f'update says {told}, doctor {missing}')
    with open(f'/proc/{made["pid"]}/limits', encoding='ascii') as file:
        limit = next(line for line in file if line.startswith('Max processes')).split()[2]
    check(limit != 'unlimited' and int(limit) <= 2048, f'a VMM may have {limit} threads')
    rig.run('destroy', 'q')


def resolvers(rig):
    """Those that run `spore network-resolver`."""
    found = []
    for pid in rig.pids('spore'):
        with open(f'/proc/{pid}/cmdline', 'rb') as file:
            if b'network-resolver' in file.read():
                found.append(pid)
    return found


def cgroup_of(pid):
    """Its path in the hierarchy of cgroup v2."""
    with open(f'/proc/{pid}/cgroup', encoding='ascii') as file:
        return next((line[3:].rstrip('\n') for line in file if line.startswith('0::')), None)


def what_runs_beside_is_bounded(rig):
    """A network's resolver, in a cgroup of its own, or that is told."""
    made = rig.make('h', '--network', 'egress', '--allow', 'a.example', '--cpu-max', '0.5', *rig.dns)
    vm = next(each for each in rig.json('list') if each['id'] == 'h')

    def look(when):
        found = resolvers(rig)
        check(len(found) == 1, f'{when}: resolvers {found}')
        stats = rig.json('stats', 'h')
        bounds = ('cpu_max' not in stats['not_enforced'] and stats['memory']['vmm_bytes_max'] is not None
                  and stats['vmm']['tasks_max'] is not None)
        check(('network_cgroup' in stats['not_enforced']) != bounds, f'{when}: {stats}')
        told = stats['beside']
        check(told['passt'] is None and ('resolver' in stats['not_known']) != bounds, f'{when}: {stats}')
        rows = [line for line in rig.run('stats', 'h').stdout.decode().splitlines() if line.startswith('h/')]
        check(len(rows) == 1 and rows[0].startswith('h/resolver '), f'{when}: {rows}')
        if bounds:
            told = told['resolver']
            check(told['memory_bytes_max'] == 64 << 20 and 0 < told['memory_bytes'] <= 64 << 20, f'{when}: {told}')
            check(told['tasks_max'] == 64 and told['tasks'] == len(os.listdir(f'/proc/{found[0]}/task')), f'{when}: {told}')
            check(told['cpu_used_us'] > 0 and told['oom_kills'] == 0, f'{when}: {told}')
            check('/64M' in rows[0] and f' {told["tasks"]}/64 ' in rows[0], f'{when}: {rows}')
        if vm['jail']['cgroup']['holds']:
            own, of_vm = cgroup_of(found[0]), cgroup_of(vm['pid'])
            check(own != of_vm and os.path.dirname(own) == os.path.dirname(of_vm), f'{when}: {own} beside {of_vm}')
        return bounds

    plain = rig.make('n', '--network', 'egress', *rig.dns)
    told = rig.json('stats', 'n')['beside']
    check(told == {'passt': None, 'resolver': None}, f'beside {plain}: {told}')
    rig.run('destroy', 'n')
    bounds = look('created')
    check(('network_cgroup' in made['not_enforced']) != bounds, made)
    rig.run('update', 'h', '--network', 'egress', '--allow', 'b.example', *rig.dns)
    look('another resolver')
    if bounds:
        quota = quota_of(resolvers(rig)[0])
        check(quota == 0.5, f'a resolver beside --cpu-max 0.5 may have {quota} of a processor')
        rig.run('update', 'h', '--cpu-max', '0.75')
        quota = quota_of(resolvers(rig)[0])
        check(quota == 0.75, f'a resolver beside --cpu-max 0.75 may have {quota} of a processor')
    rig.run('destroy', 'h')
    wait_until(lambda: not resolvers(rig) and rig.nothing_left(), 'all of it to be gone')


def passt_is_in_a_cgroup(user, number):
    """Of a user with a delegated one, as systemd delegates: passt and its keeper, beside the VM."""
    rig = user.rig
    if not rig.cgroup:
        print('     no cgroup v2 here for passt to be in', flush=True)
        return
    delegated = rig.cgroup + '-user'
    try:
        os.makedirs(f'{delegated}/session', mode=0o755)
    except OSError as error:
        print(f'     no cgroup to be had here for passt to be in: {error}', flush=True)
        return
    for name in ('', '/cgroup.procs', '/cgroup.subtree_control'):
        os.chown(delegated + name, number, number)
    user.session = ('sh', '-c', 'echo 0 > "$0/cgroup.procs" && exec "$@"', f'{delegated}/session')
    user.environment = {key: value for key, value in user.environment.items() if key != 'SPORE_CGROUP'}
    user.run('create', 'c', '--template', 'card', '--network', 'egress', *rig.dns)
    found = {who: [cgroup_of(pid) for pid in pids] for who, pids in user.processes().items()}
    vm, stats = user.run('list')[0], user.run('stats', 'c')
    check(found['pasta'] == found['keeper'] and len(found['pasta']) == 1, found)
    of_passt, of_vm = found['pasta'][0], cgroup_of(vm['pid'])
    check(of_passt != of_vm and os.path.dirname(of_passt) == os.path.dirname(of_vm), f'{of_passt} beside {of_vm}')
    check(os.path.dirname(of_passt).endswith(os.path.basename(delegated) + '/spore'), of_passt)
    with open(f'{delegated}/spore/cgroup.subtree_control', encoding='ascii') as file:
        has = set(file.read().split())
    check(('network_cgroup' in stats['not_enforced']) == (not {'cpu', 'memory', 'pids'} <= has), f'{stats}, of {has}')
    told = stats['beside']
    check(told['resolver'] is None and told['passt']['cpu_used_us'] > 0, told)
    check(('memory' in has) == (told['passt']['memory_bytes_max'] == 256 << 20), f'{told}, of {has}')
    check(('pids' in has) == (told['passt']['tasks_max'] == 64), f'{told}, of {has}')
    check(('passt' in stats['not_known']) == ('network_cgroup' in stats['not_enforced']), stats)
    user.run('destroy', 'c')

    def gone():
        user.run('list')
        left = [each.name for each in os.scandir(f'{delegated}/spore') if each.is_dir() and each.name[0] != '.']
        return not user.processes() and not left or (user.processes(), left)

    wait_until(gone, 'all of it to be gone')
    user.session = ()
    remove_cgroup(delegated)
    check(not os.path.exists(delegated), f'{delegated} is left')


def quota_of(pid):
    """Of processor time, by its cgroup's own file, whichever version has it."""
    for mount in ('/sys/fs/cgroup', '/sys/fs/cgroup/unified'):
        path = f'{mount}{cgroup_of(pid)}'
        if os.path.exists(f'{path}/cpu.max'):
            with open(f'{path}/cpu.max', encoding='ascii') as file:
                quota, period = file.read().split()
            return int(quota) / int(period)
    with open(f'/proc/{pid}/cgroup', encoding='ascii') as file:
        path = next(line.rstrip('\n').split(':', 2)[2] for line in file if 'cpu' in line.split(':')[1].split(','))
    values = []
    for name in ('quota', 'period'):
        with open(f'/sys/fs/cgroup/cpu{path}/cpu.cfs_{name}_us', encoding='ascii') as file:
            values.append(int(file.read()))
    return values[0] / values[1]


def rates_come_with_the_start(rig):
    """Of devices: the device itself says which it has, from its first request on, whichever way it came."""
    words = ('--io-max', '2M,ops=200', '--net-max', '1M,packets=1000', '--network', 'egress', *rig.dns)
    disk = {'bytes_per_second': 2 << 20, 'operations_per_second': 200}
    card = {'bytes_per_second': 1 << 20, 'packets_per_second': 1000}
    for source in ('parked', 'ready', 'cold'):
        if source != 'cold':
            rig.run('pool', 'start', 'card', f'--{source}', '1')
        made = rig.make(source, *words)
        check(made['source'] == source, made)
        if source != 'cold':
            rig.run('pool', 'stop', 'card')
        stats = rig.json('stats', source)
        check(stats['disk']['held_to'] == disk and stats['network']['held_to'] == card, stats)
        check(not {'io_max', 'net_max'} & set(stats['not_enforced']), stats)
    rig.run('update', 'ready', '--io-max', 'none')
    stats = rig.json('stats', 'ready')
    check(set(stats['disk']['held_to'].values()) == {None} and stats['network']['held_to'] == card, stats)
    rig.make('free', '--network', 'egress', *rig.dns)
    stats = rig.json('stats', 'free')
    check({*stats['disk']['held_to'].values(), *stats['network']['held_to'].values()} == {None}, stats)
    rig.run('destroy', 'parked', 'ready', 'cold', 'free')
    wait_until(rig.nothing_left, 'all of it to be gone')


def what_has_no_option_is_told(rig):
    """Descriptors, connections, what the console has said: each with the bound that holds it."""
    made = rig.make('s', template='plain')
    stats = rig.json('stats', 's')
    fds = f'/proc/{made["pid"]}/fd'
    there, told = len(os.listdir(fds)), stats['vmm']['open_files']
    check(0 < told and abs(told - there) <= 4, f'{told} descriptors are told, {there} are there')
    with open(f'/proc/{made["pid"]}/limits', encoding='ascii') as file:
        limit = next(line for line in file if line.startswith('Max open files')).split()[3]
    check(stats['vmm']['open_files_max'] == int(limit) < 4096, f'{stats["vmm"]} of {limit}')
    check(stats['vsock']['connections'] <= stats['vsock']['connections_max'] == 1024, stats['vsock'])
    check(stats['console']['bytes_max'] == 1 << 20 and stats['console']['dropped_bytes'] == 0, stats['console'])
    rig.run('destroy', 's')


def processor_time_is_held(rig):
    """Of a guest that never halts, whichever way it came and whichever version of cgroups this host has."""
    def share(millis):
        """Of a processor, while so much of it is used."""
        begun, before = time.monotonic(), rig.json('stats', 'burn')['cpu']
        wait_until(lambda: rig.json('stats', 'burn')['cpu']['used_us'] > before['used_us'] + millis * 1000, 'it to burn')
        after, took_s = rig.json('stats', 'burn')['cpu'], time.monotonic() - begun
        return (after['used_us'] - before['used_us']) / 1e6 / took_s, after['throttled_us'] - before['throttled_us']

    for source in ('cold', 'ready', 'parked'):
        if source != 'cold':
            rig.run('pool', 'start', 'plain', f'--{source}', '1')
        made = rig.make('burn', '--cpu-max', '0.5', template='plain')
        check(made['source'] == source, made)
        if source != 'cold':
            rig.run('pool', 'stop', 'plain')
        if 'cpu_max' in made['not_enforced']:
            rig.run('destroy', 'burn')
            raise Skipped(f'no cgroup with a cpu controller to be had here: {made["not_enforced"]}')
        used, throttled_us = share(1000)
        print(f'     {source}: {used:.3f} of a processor, of 0.5', flush=True)
        # A busy machine may have less for it.
        check(used <= 0.525 and throttled_us > 0, f'{source}: {used:.3f}, of 0.5, held back for {throttled_us} us')
        updated = rig.json('update', 'burn', '--cpu-max', '0.2')
        check('cpu_max' not in updated['not_enforced'], updated)
        share(20)
        used, throttled_us = share(400)
        check(used <= 0.21 and throttled_us > 0, f'{source}: {used:.3f}, of 0.2, held back for {throttled_us} us')
        rig.check_answers('burn')
        rig.run('destroy', 'burn')
    wait_until(rig.nothing_left, 'all of it to be gone')


QUOTAS = ('--cpu-max', '0.5', '--cpu-weight', '50', '--io-max', '50M,ops=5000', '--net-max', '50M,packets=50000')
# (template, options): by turns.
KINDS = (('card', ()),
         ('card', ('--network', 'egress', *QUOTAS)),
         ('plain', QUOTAS),
         ('card', ('--network', 'egress', '--allow', 'a.example', *QUOTAS)))


def what_is_there(rig):
    """By kind, a Counter of what this host has."""
    tables = subprocess.run(['nft', 'list', 'tables'], check=True, capture_output=True, text=True).stdout
    return {
        'processes': rig.processes(),
        'mounts': inventory.mounts(),
        'cgroups': inventory.cgroups(rig),
        'users in use': inventory.users(),
        'files of the state directory': collections.Counter(rig.files(rig.home)),
        'files of /run': collections.Counter(each for each in rig.files('/run')
                                             if not each[0].startswith(('spore-users/', 'spore-network/.host'))),
        'tables of rules': collections.Counter(tables.splitlines()),
        'interfaces': collections.Counter(os.listdir('/sys/class/net')),
    }


def rounds(rig):
    """Sandboxes with networks and quotas, some of a pool: the host has what it had before."""
    def one(number):
        template, options = KINDS[number % len(KINDS)]
        dns = rig.dns if template == 'card' else ()
        made = rig.make('r', *options, *dns, template=template)
        if options == KINDS[1][1]:
            stats = rig.json('stats', 'r')
            check(stats['network']['held_to']['bytes_per_second'] == 50 << 20, stats)
        rig.run('destroy', 'r')
        return made['source']

    wait_until(rig.nothing_left, 'what was before to be gone')
    for number in range(len(KINDS)):  # what a host keeps from its first ones
        one(number)
    rig.run('pool', 'start', 'card', '--ready', '1')
    rig.run('pool', 'stop', 'card')
    wait_until(rig.nothing_left, 'the first ones to be gone')
    before, begun, sources = what_is_there(rig), time.monotonic(), collections.Counter()
    for number in range(rig.rounds):
        if number == rig.rounds // 2:
            rig.run('pool', 'start', 'card', '--parked', '1', '--ready', '1')
        sources[one(number)] += 1
    rig.run('pool', 'stop', 'card')
    print(f'     {rig.rounds} in {time.monotonic() - begun:.0f} s: {dict(sources)}', flush=True)

    def as_before():
        rig.run('list')  # what ended is removed by the next command
        return inventory.difference(before, what_is_there(rig)) or True

    wait_until(as_before, 'the host as it was')
