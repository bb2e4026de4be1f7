"""A sandbox whose VM has ended gets another under its ID: one, whoever asks for it, and nothing of the old one is left."""

import os
import signal

import inventory
from world import TEMPLATE, answer_of, check, wait_until

NAME = 'again'
AT_ONCE = 8
FORCED = 3


def state_of(world):
    return next((each for each in world.json('list') if each['id'] == NAME), None)


def end_vm(world):
    os.kill(state_of(world)['pid'], signal.SIGKILL)
    wait_until(lambda: state_of(world)['state'] == 'dead' or str(state_of(world)), 'spore list to call it dead')


def of_ended_and_running(world):
    before = inventory.settled(world)
    first = world.create(NAME, '--label', 'kind=soak', '--owner', 'somebody', '--env', 'A=1', '--io-max', '100M')
    for stage in range(2):
        end_vm(world)
        commands = [world.start('restart', NAME) for _ in range(AT_ONCE if stage else 1)]
        answers = [answer_of(each.communicate()[0], each.returncode) for each in commands]
        made = [answer for answer, _ in answers if answer]
        check(len(made) == 1, f'{len(made)} of {len(answers)} restarts made one: {answers}')
        check(all(error in (None, 'unavailable') for _, error in answers), f'refused: {answers}')
        for field in ('id', 'template', 'created_unix_ms', 'owner', 'labels', 'limits'):
            check(made[0][field] == first[field], f'{field}: {made[0][field]}, it was {first[field]}')
        check(made[0]['state'] == 'running', made[0]['state'])
        world.check_answers(NAME)
    _, error = world.try_json('restart', NAME)
    check(error == 'unavailable', f'restarting one that runs: {error}')
    world.check_answers(NAME)
    for _ in range(FORCED):
        had = state_of(world)['pid']
        world.run('restart', '--force', NAME)
        check(state_of(world)['pid'] != had, 'it has the VM that it had')
        world.check_answers(NAME)
    world.run('destroy', NAME)
    _, error = world.try_json('restart', NAME)
    check(error == 'not_found', f'restarting one that is destroyed: {error}')
    inventory.wait_for(world, before)
