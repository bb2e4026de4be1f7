"""Sandboxes and templates whose makers change their minds: what is left is what there was."""

import collections
import time

import inventory
from world import TEMPLATE, check, wait_until

COUNT = 30
TEMPLATES = 12
ROUNDS_MAX = 10  # until some were stopped
POOL_MANY = 1000  # takes longer to fill than a command takes to begin


def milliseconds(make):
    """What it takes here and now, a command's start included, so that some are made."""
    begun = time.monotonic()
    make()
    return max(2, round((time.monotonic() - begun) * 1000))


def at_random_moments(world):
    before = inventory.settled(world)
    told, templates = collections.Counter(), collections.Counter()
    for path, options in (('cold', ['--cold']), ('pool', [])):
        moment_ms = milliseconds(lambda chosen=options: world.create('timed', *chosen))
        world.run('destroy', 'timed')
        told.update(world.order('stopped', COUNT, moment_ms, TEMPLATE, path))
        inventory.wait_for(world, before)
    moment_ms = milliseconds(lambda: world.create_template('timed'))
    world.run('template', 'remove', 'timed')
    for _ in range(ROUNDS_MAX):
        templates.update(world.order('stopped-templates', TEMPLATES, moment_ms, 'freestanding'))
        if templates['stopped'] > 0:
            break
    inventory.wait_for(world, before)
    print(f'     sandboxes {dict(told)}, templates {dict(templates)}')
    check(told['stopped'] > 0 and templates['stopped'] > 0, 'none was stopped')


def a_pool_that_fills(world):
    """Its keeper does not make the rest of a thousand clones first."""
    before = inventory.settled(world)
    world.run('pool', 'stop', TEMPLATE)
    start = world.start('pool', 'start', TEMPLATE, '--parked', str(POOL_MANY))

    def waiting():
        try:
            return sum(name.startswith('parked-') for name in world.names(f'pools/{TEMPLATE}'))
        except FileNotFoundError:
            return 0

    wait_until(lambda: waiting() > 0, 'the first clone to wait')
    stop = world.start('pool', 'stop', TEMPLATE)
    most = 0
    while stop.poll() is None:  # ends within the limit of its own that it has for the keeper
        most = max(most, waiting())
    check(stop.returncode == 0, f'pool stop: status {stop.returncode}')
    start.communicate()
    check(0 < most < POOL_MANY, f'{most} clones were made before the end was noticed')
    world.start_pool()
    wait_until(world.pool_is_full, 'the pool to be full')
    inventory.wait_for(world, before)
    print(f'     {most} of {POOL_MANY} were made')
