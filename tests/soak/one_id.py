"""Sandboxes that are asked for at once under one ID: there is one."""

import collections

import inventory
from world import TEMPLATE, answer_of, check

TRIES = 6
AT_ONCE = 16


def check_one(counts, who):
    lost = sum(counts[code] for code in ('already_exists', 'unavailable'))
    check(counts['created'] == 1 and lost == AT_ONCE - 1, f'{who}: {dict(counts)}')


def of_one_process(world):
    before = inventory.settled(world)
    for number in range(TRIES):
        name = f'one-{number}'
        counts = world.order('same', AT_ONCE, TEMPLATE, name, 'cold' if number % 2 else 'pool')
        check_one(collections.Counter(counts), name)
        world.check_answers(name)
        world.run('destroy', name)
    inventory.wait_for(world, before)


def of_many_processes(world):
    before = inventory.settled(world)
    for number in range(TRIES):
        name = f'only-{number}'
        creators = [world.start('create', name, '--template', TEMPLATE,
                                *(['--cold'] if (number + each) % 2 else []))
                    for each in range(AT_ONCE)]
        counts = collections.Counter()
        for creator in creators:
            output = creator.communicate()[0]
            made, error = answer_of(output, creator.returncode)
            counts['created' if made else error] += 1
        check_one(counts, name)
        world.check_answers(name)
        world.run('destroy', name)
    inventory.wait_for(world, before)
