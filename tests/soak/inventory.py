"""What a host has of Spore's: exactly (processes, descriptors, mounts, files), and how much memory."""

import collections
import fcntl
import os
import re
import time

from world import TEMPLATE, UIDS, Failed, anonymous, in_all_hierarchies

USERS = '/run/spore-users'
SETTLE_S = 60  # ends of VMs are torn down behind the commands


def exact(world):
    """By kind, a Counter of what there is of it."""
    keeper, zygote = world.keeper(), world.zygote()
    return {
        'processes': world.processes(),
        'descriptors of the driver': descriptors(world, world.driver.pid),
        'descriptors of the keeper': descriptors(world, keeper),
        'descriptors of the zygote': descriptors(world, zygote),
        'mounts': mounts(),
        'cgroups': cgroups(world),
        'files of the state directory': collections.Counter(world.files(world.home)),
        'files of /run': collections.Counter(each for each in world.files('/run')
                                             if not each[0].startswith('spore-users/')),
        'users in use': users(),
        'files of /tmp': collections.Counter(world.files('/tmp')),
    }


def descriptors(world, pid):
    found = collections.Counter()
    directory = f'/proc/{pid}/fd'
    try:
        for number in os.listdir(directory):
            try:
                target = os.readlink(os.path.join(directory, number))
            except FileNotFoundError:
                continue
            target = re.sub(rf'^{USERS}/\d+$', f'{USERS}/N', target)  # one made anew has another
            found[anonymous(re.sub(r':\[\d+\]$', '', target).replace(world.home, '~'))] += 1
    except OSError as error:
        found[str(error)] += 1
    return found


def mounts():
    with open('/proc/self/mountinfo', encoding='utf-8') as file:
        return collections.Counter(' '.join(line.split()[3:6]) for line in file)


def cgroups(world):
    """How many there are in each hierarchy, used and unused: what ended is removed by the next command."""
    found = collections.Counter()
    for top in in_all_hierarchies(world.cgroup) if world.cgroup else ():
        hierarchy = os.path.basename(os.path.dirname(top))
        for base, directories, _ in os.walk(top):
            for name in directories:
                try:
                    with open(os.path.join(base, name, 'cgroup.procs'), 'rb') as file:
                        found[('used in ' if file.read() else 'unused in ') + hierarchy] += 1
                except OSError:
                    pass
    return found


def difference(before, after):
    """Lines that say what is more or less."""
    lines = []
    for kind, had in before.items():
        more, less = after[kind] - had, had - after[kind]
        lines += [f'{kind}: {count} more of {what}' for what, count in more.items()]
        lines += [f'{kind}: {count} less of {what}' for what, count in less.items()]
    return lines


def settled(world):
    """What there is when all that was ended before is gone."""
    deadline = time.monotonic() + SETTLE_S
    last = None
    while time.monotonic() < deadline:
        now = exact(world)
        ended = [name for name in now['processes'] if name.startswith('ended ')]
        if now == last and not ended and world.pool_is_full() is True:
            return now
        last = now
        time.sleep(0.2)
    raise Failed(f'the host does not come to rest: {difference(last, now)} {ended}')


def users_held(world):
    """How many users each VM process holds the claim to: one, its own."""
    return {pid: descriptors(world, pid)[f'{USERS}/N'] for pid in world.pids('spore-vmm')}


def users():
    """How many of ours some spore-vmm is: a number's file is locked as long as that lives, and its name swept later."""
    held = 0
    for name in os.listdir(USERS) if os.path.isdir(USERS) else ():
        if int(name) not in UIDS:
            continue
        try:
            with open(os.path.join(USERS, name), encoding='utf-8') as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held += 1
        except FileNotFoundError:
            pass
    return collections.Counter(held=held)


def wait_for(world, before):
    """Until all is as before; Failed with what is not."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        full = world.pool_is_full()
        lines = difference(before, exact(world)) if full is True else [f'the pool is not full: {full}']
        if not lines:
            return
        if time.monotonic() > deadline:
            raise Failed(f'after {SETTLE_S} s: ' + '; '.join(lines[:20]))
        time.sleep(0.05)


# ---- Memory

def memory(world):
    """Bytes of each process that stays, and of the kernel; objects of each slab cache."""
    found = {}
    for name, pid in (('driver', world.driver.pid), ('keeper', world.keeper()),
                      ('zygote', world.zygote())):
        rollup = fields(f'/proc/{pid}/smaps_rollup')
        found[f'{name} RSS'] = rollup['Rss']
        found[f'{name} own'] = rollup['Private_Dirty']
    kernel = fields('/proc/meminfo')
    found['keeper log'] = os.path.getsize(os.path.join(world.home, 'pools', TEMPLATE, 'keeper.log'))
    # Programs' own memory is looked at one by one above, files in memory are counted as files: those of
    # others are nobody's concern here.
    found['kernel memory not available'] = \
        kernel['MemTotal'] - kernel['MemAvailable'] - kernel['AnonPages'] - kernel['Shmem']
    for name in ('SUnreclaim', 'KernelStack', 'PageTables', 'Percpu'):
        found[f'kernel {name}'] = kernel[name]
    return found


def fields(path):
    found = {}
    with open(path, encoding='utf-8') as file:
        for line in file:
            name, _, rest = line.partition(':')
            words = rest.split()
            if len(words) == 2 and words[1] == 'kB':
                found[name] = int(words[0]) * 1024
    return found


def slabs():
    """Objects in use of each cache of the kernel's that it does not give up by itself."""
    found = {}
    with open('/proc/slabinfo', encoding='utf-8') as file:
        for line in file:
            words = line.split()
            if line.startswith(('#', 'slabinfo')) or is_reclaimable(words[0]):
                continue
            found[f'slab {words[0]}'] = int(words[1])
    return found


def is_reclaimable(cache):
    try:
        with open(f'/sys/kernel/slab/{cache}/reclaim_account', encoding='utf-8') as file:
            return file.read().strip() == '1'
    except OSError:
        return False
