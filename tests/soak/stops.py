"""Sandboxes and templates whose makers change their minds: what is left is what there was."""

import collections
import time

import inventory
from world import TEMPLATE, check

COUNT = 30
TEMPLATES = 12
ROUNDS_MAX = 10  # until some were stopped


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
