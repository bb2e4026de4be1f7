"""Sandboxes made and destroyed, many: the host has what it had before."""

import collections
import time

import inventory
from world import Failed

THREADS = 4
PARTS = 4
MORE_PARTS_MAX = 8
# What each may have grown by in all: a heap settles.
BYTES = {'driver RSS': 4 << 20, 'driver own': 4 << 20, 'keeper RSS': 512 << 10, 'keeper own': 512 << 10,
         'zygote RSS': 512 << 10, 'zygote own': 512 << 10, 'keeper log': 0}
# The kernel's figures are everybody's, and go up and down by themselves. What leaks grows in every part,
# and by more in all than this.
KERNEL_BYTES, KERNEL_BYTES_A_ROUND = 16 << 20, 2048
SLAB_OBJECTS, SLAB_OBJECTS_A_ROUND = 64, 0.25


def one_part(world, count, sources):
    """`count` rounds: half and less of what waits in the pool, some by the command line."""
    by_command = max(2, count // 50)
    of_pool = count * 2 // 5
    for number in range(by_command):
        made = world.create('by-command', *(['--cold'] if number % 2 else []))
        world.check_answers('by-command')
        world.run('destroy', 'by-command')
        sources[made['source']] += 1
    for path, share in (('pool', of_pool), ('cold', max(0, count - by_command - of_pool))):
        sources.update(world.order('rounds', share, THREADS, 'soak', path))


def suspects(samples, rounds):
    """What has grown in every part, and by how much in all."""
    found = {}
    for name in samples[0]:
        values = [sample.get(name, 0) for sample in samples]
        grown = values[-1] - values[0]
        bound = KERNEL_BYTES + KERNEL_BYTES_A_ROUND * rounds
        if name.startswith('slab '):
            bound = SLAB_OBJECTS + SLAB_OBJECTS_A_ROUND * rounds
        if name not in BYTES and grown > bound and \
                all(later > earlier for earlier, later in zip(values, values[1:])):
            found[name] = grown
    return found


def nothing_leaks(world, rounds):
    sources = collections.Counter()
    one_part(world, 100, collections.Counter())
    before = inventory.settled(world)
    samples = [{**inventory.memory(world), **inventory.slabs()}]
    done, begun = 0, time.monotonic()
    for part in range(PARTS + MORE_PARTS_MAX):
        if part >= PARTS and not suspects(samples, done):
            break
        count = rounds // PARTS + (part < rounds % PARTS)
        one_part(world, count, sources)
        done += count
        inventory.wait_for(world, before)
        samples.append({**inventory.memory(world), **inventory.slabs()})
    seconds = time.monotonic() - begun
    report(samples, sources, done, seconds)
    wrong = [f'{name}: {grown:+} in {done} rounds, in every part of them'
             for name, grown in suspects(samples, done).items()]
    for name, bound in BYTES.items():
        grown = samples[-1][name] - samples[0][name]
        if grown > bound:
            wrong.append(f'{name}: {grown:+} bytes, at most {bound}')
    if wrong:
        raise Failed('; '.join(wrong))


def report(samples, sources, done, seconds):
    print(f'     {done} rounds in {seconds:.0f} s ({dict(sources)})')
    first, last = samples[0], samples[-1]
    for name in first:
        if not name.startswith('slab '):
            steps = ' '.join(f'{(sample[name] - first[name]) / 1024:+.0f}' for sample in samples[1:])
            print(f'     {name}: {first[name] / 1024:.0f} KiB, {steps}')
    grown = sorted(((last.get(name, 0) - first[name], name) for name in first
                    if name.startswith('slab ')), reverse=True)
    print('     most grown: ' + ', '.join(f'{name[5:]} {count:+}' for count, name in grown[:5]),
          flush=True)
