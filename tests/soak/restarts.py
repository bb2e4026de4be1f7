"""A sandbox whose VM has ended gets another under its ID: one, whoever asks for it, and nothing of the old one is left."""

import contextlib
import os
import signal
import subprocess

import inventory
from world import TEMPLATE, World, answer_of, check, template_words, wait_until

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


class SmallWorld(World):
    """On a file system of its own, with all that would be elsewhere in memory; no pool."""

    def __init__(self, world, place):  # with the other's programs and cgroup
        self.__dict__ = dict(world.__dict__, place=place, home=os.path.join(place, 'home'), driver=None)
        self.environment = dict(world.environment, SPORE_HOME=self.home)
        os.makedirs(place)
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=512M', 'tmpfs', place], check=True)

    def prepare(self):
        os.makedirs(os.path.join(self.home, 'run'), mode=0o700)
        subprocess.run([self.make_image, self.home, 'freestanding', self.guest], check=True, stdout=subprocess.DEVNULL)
        self.run(*template_words(TEMPLATE))

    def clean(self):
        if state_of(self):
            self.run('destroy', NAME)
        subprocess.run(['umount', '--lazy', self.place], check=True)
        os.rmdir(self.place)

    @contextlib.contextmanager
    def full(self):
        """Its file system, to the last byte."""
        path = os.path.join(self.place, 'filler')
        with open(path, 'wb', buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(bytes(1 << 20)):
                    pass
        check(os.statvfs(self.place).f_bavail == 0, 'it is not full')
        yield
        os.unlink(path)


def on_a_full_disk(world):
    """Restarting fails as what it is, and leaves what was there; with room again it works."""
    small = SmallWorld(world, world.home + '-small')
    try:
        small.prepare()
        made = small.create(NAME, '--cold', '--label', 'kind=soak')
        end_vm(small)
        before = state_of(small)
        with small.full():
            _, error = small.try_json('restart', NAME)
            check(error == 'resource_exhausted', f'restart on a full disk: {error}')
            check(state_of(small) == before, f'{state_of(small)}, it was {before}')
        small.run('restart', NAME)
        check(state_of(small)['created_unix_ms'] == made['created_unix_ms'], 'it is another')
        small.check_answers(NAME)
        small.run('destroy', NAME)
        left = [name for kind in ('sandboxes', 'disks') for name in small.names(kind)]
        check(left == [], f'left: {left}')
    finally:
        small.clean()
