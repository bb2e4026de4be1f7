"""Clones made ahead of demand (spore pool), and what is left when any process of theirs is killed."""

import os
import random
import signal
import subprocess

from host import check, check_equal, wait_until
from sandbox_tests import nothing_left


class Pool:
    """A pool of a template, gone at the end with the sandboxes that came of it."""

    def __init__(self, host, parked=0, ready=0, template=None):
        self.host = host
        self.template = template or host.template(host.fast_kernel)
        self.directory = os.path.join(host.home, 'pools', self.template)
        self.names = []
        host.run('pool', 'start', self.template, '--parked', str(parked), '--ready', str(ready))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.names:
            self.host.run('destroy', *self.names, status=None)
        self.host.run('pool', 'stop', self.template, status=None)

    def create(self, name, *options):
        self.names.append(name)
        return self.host.json('create', name, '--template', self.template, *options)

    def status(self):
        return next(pool for pool in self.host.json('pool', 'list')
                    if pool['template'] == self.template)

    def waiting(self):
        status = self.status()
        return status['parked'], status['ready']


def no_pool_left(host):
    wait_until(lambda: not host.processes('spore'), 'the end of every keeper')
    check_equal(host.json('pool', 'list'), [], 'spore pool list')
    nothing_left(host)


def taken_in_order(host):
    with Pool(host, parked=2, ready=1) as pool:
        check_equal(pool.waiting(), (2, 1), 'waiting at first')
        keeper = pool.status()['keeper_pid']
        os.kill(keeper, signal.SIGSTOP)  # nothing is made anew meanwhile
        sources = [pool.create(f'taken-{number}')['source'] for number in range(4)]
        os.kill(keeper, signal.SIGCONT)
        check_equal(sources, ['parked', 'parked', 'ready', 'cold'], 'where the clones came from')
        seen = [host.exec(name, 'hostname; cat /proc/sys/kernel/random/uuid /etc/machine-id')
                .split() for name in pool.names]
        check_equal([lines[0] for lines in seen], pool.names, 'hostnames')
        for column, what in ((1, 'uuid'), (2, 'machine-id')):
            check_equal(len({lines[column] for lines in seen}), len(seen), f'different values of {what}')
        wait_until(lambda: pool.waiting() == (2, 1), 'the pool to fill up again')
        error = host.json('template', 'remove', pool.template, status=None)['error']
        check_equal(error['code'], 'unavailable', 'removing a template that is in use')
    no_pool_left(host)


def many_at_once(host):
    """More than wait ask at once: each gets one of its own, warm or cold."""
    with Pool(host, parked=3, ready=3) as pool:
        names = [f'many-{number}' for number in range(10)]
        pool.names += names
        creators = [host.start('create', name, '--template', pool.template, '--timeout', '250s',
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                    for name in names]
        errors = [creator.communicate(timeout=300)[1] for creator in creators]
        check(not any(creator.returncode for creator in creators),
              f'create failed: {[error for error in errors if error]}')
        ids = {host.exec(name, 'cat /proc/sys/kernel/random/boot_id') for name in names}
        check_equal(len(ids), len(names), 'different boot IDs')
        # One name is one sandbox, however many ask for it.
        twice = host.json('create', names[0], '--template', pool.template, status=73)
        check_equal(twice['error']['code'], 'already_exists', 'error code')
    no_pool_left(host)


def killed_keeper(host):
    with Pool(host, parked=1, ready=1) as pool:
        pool.create('outlives')
        wait_until(lambda: pool.waiting() == (1, 1), 'the pool to fill up again')
        os.kill(pool.status()['keeper_pid'], signal.SIGKILL)
        # What waited ends; what was taken goes on, and the next command clears up.
        wait_until(lambda: len(host.vmm_processes()) == 1, 'the end of what waited')
        check_equal(host.exec('outlives', 'echo on'), 'on', 'a sandbox whose keeper was killed')
        status = pool.status()
        check_equal((status['alive'], status['parked'], status['ready']), (False, 0, 0), 'the pool')
        check_equal(pool.create('without')['source'], 'cold', 'a clone without a keeper')
        host.run('pool', 'start', pool.template, '--ready', '1')
        check_equal(pool.create('again')['source'], 'ready', 'a clone with a new keeper')
    no_pool_left(host)


def killed_zygote_and_workers(host):
    with Pool(host, parked=1, ready=1) as pool:
        for pid in host.vmm_processes():  # the zygote, and both that wait
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pool.waiting() == (1, 1) and len(host.vmm_processes()) == 3,
                   'the pool to be made anew')
        check_equal(pool.create('anew')['source'], 'parked', 'where the clone came from')
        check_equal(host.exec('anew', 'echo on'), 'on', 'a clone of the new zygote')
    no_pool_left(host)


def killed_at_random(host):
    """The CLI is killed in the midst of creating: the next command clears away what it has left."""
    seed = random.randrange(1 << 32)
    print(f'     seed {seed}', flush=True)
    dice = random.Random(seed)
    with Pool(host, parked=1) as pool:
        pool.create('bystander')
        for number in range(12):
            creator = host.start('create', f'doomed-{number}', '--template', pool.template,
                                 *(['--cold'] if number % 2 else []),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                creator.wait(dice.uniform(0, 1.5))
            except subprocess.TimeoutExpired:
                creator.kill()
                creator.wait()
        left = [each['id'] for each in host.json('list')]
        whole = [name for name in left if name != 'bystander']
        for name in whole:  # those that were quicker than the kill
            check_equal(host.exec(name, 'hostname'), name, 'a sandbox whose creator was killed late')
        if whole:
            host.run('destroy', *whole)
        check_equal(host.exec('bystander', 'echo on'), 'on', 'the one beside them')
        wait_until(lambda: pool.waiting() == (1, 0) and len(host.vmm_processes()) == 3,
                   'nothing but the bystander, the zygote and one that waits', 120)
    no_pool_left(host)


TESTS = [
    ('pool-order', taken_in_order),
    ('pool-many', many_at_once),
    ('pool-killed-keeper', killed_keeper),
    ('pool-killed-zygote', killed_zygote_and_workers),
    ('pool-killed-creators', killed_at_random),
]
