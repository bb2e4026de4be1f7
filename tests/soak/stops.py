"""Sandboxes and templates whose makers change their minds: what is left is what there was."""

import collections

import inventory
from world import TEMPLATE, check

COUNT = 30
TEMPLATES = 12
# Longer than the making takes, so that some are made.
SANDBOX_MS, TEMPLATE_MS = 30, 1000


def at_random_moments(world):
    before = inventory.settled(world)
    told = collections.Counter()
    for path in ('cold', 'pool'):
        told.update(world.order('stopped', COUNT, SANDBOX_MS, TEMPLATE, path))
        inventory.wait_for(world, before)
    templates = collections.Counter(world.order('stopped-templates', TEMPLATES, TEMPLATE_MS, 'freestanding'))
    inventory.wait_for(world, before)
    print(f'     sandboxes {dict(told)}, templates {dict(templates)}')
    check(told['stopped'] > 0 and templates['stopped'] > 0, 'none was stopped')
