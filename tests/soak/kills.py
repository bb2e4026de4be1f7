"""SIGKILL for whoever has a part in it, at random moments: the next command works and clears up, and
sandboxes beside it notice nothing."""

import collections
import os
import signal
import time

import inventory
from world import (READY, PARKED, TEMPLATE, answer_of, check, pool_words, template_words, wait_until)

BYSTANDERS = ('beside-cold', 'beside-a', 'beside-b')
# How late a kill may come is learnt: later if the last one was in time, else earlier.
FIRST_GUESS_S, LONGER, SHORTER = 0.02, 1.25, 0.8
EVENTS_A_KILL = 3  # some come too late all the same


class Kills:
    def __init__(self, world, count, dice):
        self.world = world
        self.count = count
        self.dice = dice
        self.durations = {}
        self.row = []
        self.in_time = collections.Counter()
        self.number = 0

    # ---- Whom to kill

    def run(self):
        world = self.world
        before = inventory.settled(world)
        world.create(BYSTANDERS[0], '--cold')
        for name in BYSTANDERS[1:]:
            world.create(name)
        wait_until(world.pool_is_full, 'the pool to be full')
        self.processes = world.processes()
        for self.number in range(EVENTS_A_KILL * self.count):
            if sum(self.in_time.values()) >= self.count:
                break
            self.one_event()
        world.run('destroy', *BYSTANDERS)
        print('     killed in time: ' + ', '.join(f'{name} {count}' for name, count in
                                                  sorted(self.in_time.items())), flush=True)
        check(sum(self.in_time.values()) >= self.count, 'too many kills came too late')
        inventory.wait_for(world, before)

    def one_event(self):
        if not self.row:
            self.row = self.dice.sample(KINDS, len(KINDS))
        kind = self.row.pop()
        try:
            kind(self)
            self.check_aftermath()
        except BaseException:
            print(f'     event {self.number}, {kind.__name__}', flush=True)
            raise

    def check_aftermath(self):
        """Nobody is here but who should be, and nothing lies about once it was looked for."""
        world = self.world
        listed = self.states()
        check(listed == dict.fromkeys(BYSTANDERS, 'running'), f'spore list says {listed}')
        check(world.names('sandboxes') == sorted(BYSTANDERS), f'{world.names("sandboxes")}')
        world.json('template', 'list')
        check(world.names('templates') == [TEMPLATE], f'{world.names("templates")}')
        for name in BYSTANDERS:
            world.check_answers(name)
        wait_until(world.pool_is_full, 'the pool to be full again')
        disks = len(BYSTANDERS) + PARKED + READY
        wait_until(lambda: len(world.names('disks')) == disks or str(world.names('disks')),
                   f'{disks} disks')
        wait_until(lambda: world.processes() == self.processes or
                   f'{dict(world.processes())}, before {dict(self.processes)}', 'the end of all others')
        if os.geteuid() == 0:
            held = inventory.users_held(world)
            check(set(held.values()) == {1}, f'users that VM processes hold: {held}')

    def states(self):
        return {each['id']: each['state'] for each in self.world.json('list')}

    def name(self):
        return f'k-{self.number}'

    def moment(self, kind):
        """How long to wait with a kill: at most about what this kind takes on this host, now."""
        return self.dice.uniform(0, self.durations.setdefault(kind, FIRST_GUESS_S))

    def note(self, kind, in_time):
        self.in_time[kind] += in_time
        self.durations[kind] *= LONGER if in_time else SHORTER

    def kill_command(self, kind, *words):
        """Starts a command and kills it, most often while it is at work."""
        process = self.world.start(*words)
        time.sleep(self.moment(kind))
        process.kill()
        process.communicate()
        self.note(kind, process.returncode == -signal.SIGKILL)

    def works_again(self, name, *options):
        """A sandbox of that name can be had, or came to be after all; then it goes."""
        world = self.world
        made, error = world.try_json('create', name, '--template', TEMPLATE, *options)
        check(made or error == 'already_exists', f'creating {name} again: {error}')
        world.check_answers(name)
        world.run('destroy', name)
        return made

    # ---- The commands

    def kill_cold_creator(self):
        self.kill_command('cold creator', 'create', self.name(), '--template', TEMPLATE, '--cold')
        self.works_again(self.name(), '--cold')

    def kill_creator(self):
        self.kill_command('creator', 'create', self.name(), '--template', TEMPLATE)
        self.works_again(self.name())

    def kill_destroyer(self):
        world, name = self.world, self.name()
        world.create(name)
        self.kill_command('destroyer', 'destroy', name)
        self.works_again(name)

    def kill_restarter(self):
        """Of one whose VM has ended: it is as it was, or restarted, and can be restarted or destroyed."""
        world, name = self.world, self.name()
        kill(world.create(name)['pid'])
        wait_until(lambda: self.states().get(name) == 'dead' or str(self.states()), f'{name} to be dead')
        self.kill_command('restarter', 'restart', name)
        made, error = world.try_json('restart', name)
        check(made or error == 'unavailable', f'restarting {name} again: {error}')
        world.check_answers(name)
        world.run('destroy', name)

    def kill_pool_starter(self):
        world = self.world
        world.run('pool', 'stop', TEMPLATE)
        self.kill_command('pool starter', *pool_words())
        self.works_again(self.name())
        world.start_pool()

    def kill_pool_stopper(self):
        world = self.world
        self.kill_command('pool stopper', 'pool', 'stop', TEMPLATE)
        self.works_again(self.name())
        world.start_pool()

    def check_template_again(self, name):
        made, error = self.world.try_json(*template_words(name))
        check(made or error == 'already_exists', f'template create {name} again: {error}')
        self.world.run('template', 'verify', name)
        self.world.run('template', 'remove', name)

    def kill_template_maker(self):
        self.kill_command('template maker', *template_words(self.name()))
        self.check_template_again(self.name())

    def kill_template_remover(self):
        world, name = self.world, self.name()
        world.create_template(name)
        self.kill_command('template remover', 'template', 'remove', name)
        _, error = world.try_json('template', 'remove', name)
        check(error in (None, 'not_found'), f'template remove again: {error}')
        check(name not in [each['name'] for each in world.json('template', 'list')], 'it is still there')

    # ---- Their VMs

    def run_and_kill_vmm(self, kind, *words):
        """Starts a command and kills the VM that it starts; what it answered, and whether it was seen in
        time to be killed."""
        known = set(self.world.pids('spore-vmm'))
        command = self.world.start(*words)
        found = set()
        while not found and command.poll() is None:
            found = set(self.world.pids('spore-vmm')) - known
        time.sleep(self.moment(kind))
        was_at_work = command.poll() is None
        for pid in found:
            kill(pid)
        output = command.communicate()[0]
        self.note(kind, bool(found) and was_at_work)
        return answer_of(output, command.returncode)[0], bool(found)

    def kill_vmm_of_creator(self):
        world, name = self.world, self.name()
        made, killed = self.run_and_kill_vmm('VM of a creator', 'create', name, '--template', TEMPLATE, '--cold')
        check(made or killed, 'create failed, though nobody was killed')
        if made:  # too late, or just after it was handed over
            expected = 'dead' if killed else 'running'
            wait_until(lambda: self.states().get(name) == expected or str(self.states()),
                       f'{name} to be {expected}')
            world.run('destroy', name)
        else:
            check(name not in self.states(), f'create failed, and there is {self.states()}')
        self.works_again(name, '--cold')

    def kill_vmm_of_template(self):
        self.run_and_kill_vmm('VM of a template', *template_words(self.name()))
        self.check_template_again(self.name())

    # ---- The pool

    def disturb_pool(self):
        """Has the keeper do something, or be about to."""
        for number in range(self.dice.randrange(3)):
            self.world.create(f'{self.name()}-{number}')
            self.world.run('destroy', f'{self.name()}-{number}')
        time.sleep(self.dice.uniform(0, 0.2))

    def kill_keeper(self):
        world, keeper = self.world, self.world.keeper()
        self.disturb_pool()
        kill(keeper)
        self.in_time['keeper'] += 1
        self.works_again(self.name())
        wait_until(lambda: (world.pool()['alive'], world.pool()['parked'], world.pool()['ready']) ==
                   (False, 0, 0) or str(world.pool()), 'what waited to be cleared away')
        world.start_pool()

    def kill_zygote(self):
        zygote = self.world.zygote()
        self.disturb_pool()
        kill(zygote)
        self.in_time['zygote'] += 1
        self.works_again(self.name())

    def kill_waiting(self):
        workers = self.world.waiting_workers()
        self.disturb_pool()
        for pid in self.dice.sample(workers, self.dice.randint(1, min(len(workers), PARKED + READY))):
            kill(pid)
        self.in_time['waiting workers'] += 1
        self.works_again(self.name())


KINDS = (Kills.kill_cold_creator, Kills.kill_creator, Kills.kill_destroyer, Kills.kill_restarter,
         Kills.kill_pool_starter, Kills.kill_pool_stopper, Kills.kill_template_maker, Kills.kill_template_remover,
         Kills.kill_vmm_of_creator, Kills.kill_vmm_of_template, Kills.kill_keeper, Kills.kill_zygote,
         Kills.kill_waiting)


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def at_random_moments(world, count, dice):
    Kills(world, count, dice).run()
