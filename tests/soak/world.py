"""A Spore of its own to be hard on: the programs, a home, and everything that runs in this PID namespace."""

import collections
import contextlib
import json
import os
import re
import shutil
import subprocess
import time

TEMPLATE = 'soak'
CGROUP = 'spore-soak-'
UIDS = range(2_000_000, 2_010_000)  # no other Spore's on this host
PARKED, READY = 4, 4
LIMIT_S = 120
# A PID in them has more digits or fewer; a keeper says when its zygote was killed.
OF_NO_SIZE = ('pool.json', 'handover', 'keeper.log')


class Failed(Exception):
    """A test's finding."""


class Skipped(Exception):
    """What a test needs, and this host does not have."""


def check(condition, message):
    if not condition:
        raise Failed(message)


def wait_until(condition, what, limit_s=LIMIT_S):
    """Until condition() is true; what it said last is part of the message."""
    deadline = time.monotonic() + limit_s
    while True:
        found = condition()
        if found is True:
            return
        if time.monotonic() > deadline:
            raise Failed(f'{what}: not within {limit_s} s: {found}')
        time.sleep(0.01)


def process_state(pid):
    """(state letter, name) of a process, None if it is gone."""
    try:
        with open(f'/proc/{pid}/stat', encoding='utf-8', errors='replace') as file:
            text = file.read()
    except OSError:
        return None
    return text[text.rindex(')') + 2], text[text.index('(') + 1:text.rindex(')')]


class World:
    def __init__(self, build, home):
        self.spore = os.path.join(build, 'hypervisor/cli/spore')
        self.driver_path = os.path.join(build, 'tests/soak/soak-driver')
        self.guest = os.path.join(build, 'bench/agent.elf')
        self.make_image = os.path.join(os.path.dirname(os.path.realpath(__file__)),
                                       '../../bench/guest/make_image')
        self.home = home
        self.cgroup = own_cgroup()
        self.environment = dict(os.environ, SPORE_HOME=home, SPORE_CGROUP=self.cgroup or 'none',
                                SPORE_UIDS=f'{UIDS.start}-{UIDS.stop - 1}')
        self.driver = None

    def prepare(self):
        os.makedirs(self.home, mode=0o700)
        subprocess.run([self.make_image, self.home, 'freestanding', self.guest], check=True,
                       stdout=subprocess.DEVNULL)
        self.create_template(TEMPLATE)
        self.create('first', '--cold')  # a template's first clone notes that the host can run it
        self.run('destroy', 'first')
        self.start_pool()
        self.driver = subprocess.Popen([self.driver_path], env=self.environment, text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        wait_until(self.pool_is_full, 'the pool to be full')

    def clean(self):
        """The PID namespace's end kills whatever is left."""
        if self.driver:
            self.driver.stdin.close()
            self.driver.wait(LIMIT_S)
        self.run('pool', 'stop', TEMPLATE, status=None)
        shutil.rmtree(self.home, ignore_errors=True)
        self.remove_cgroups()

    def remove_cgroups(self):
        if self.cgroup:
            remove_cgroup(self.cgroup)

    # ---- Commands

    def start(self, *words):
        return subprocess.Popen([self.spore, *words, '--json'], env=self.environment,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL)

    def run(self, *words, status=0):
        """The command's completed process; `status`: the one expected, None for any."""
        done = subprocess.run([self.spore, *words], env=self.environment, check=False,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S)
        if status is not None and done.returncode != status:
            raise Failed(f'spore {" ".join(words)}: status {done.returncode}, expected {status}: '
                         f'{done.stderr.decode("utf-8", "replace")[-500:]}')
        return done

    def json(self, *words):
        return json.loads(self.run(*words, '--json').stdout)

    def try_json(self, *words):
        """(what it answered, None) or (None, its error's code)."""
        done = self.run(*words, '--json', status=None)
        return answer_of(done.stdout, done.returncode)

    def create_template(self, name):
        self.run(*template_words(name))

    def start_pool(self):
        self.run(*pool_words())

    def create(self, name, *options):
        return self.json('create', name, '--template', TEMPLATE, *options)

    def check_answers(self, name):
        """The guest writes the host name that its identity gave it."""
        said = self.run('exec', name, '--', 'hostname').stdout.decode()
        check(said == name + '\n', f'sandbox {name}: hostname says {said!r}')

    def order(self, *words):
        """Has the driver do something; its counts."""
        self.driver.stdin.write(' '.join(map(str, words)) + '\n')
        self.driver.stdin.flush()
        line = self.driver.stdout.readline()
        check(line, f'the driver died, status {self.driver.poll()}')
        outcome = json.loads(line)
        check(not outcome['errors'], f'driver, {" ".join(map(str, words))}: {outcome}')
        return outcome['counts']

    # ---- Who is there

    def pids(self, program):
        found = []
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                if os.path.basename(os.readlink(f'/proc/{pid}/exe')) == program:
                    found.append(int(pid))
            except OSError:
                pass
        return found

    def processes(self):
        """How many run of each program, and how many have ended and nobody has noticed."""
        found = collections.Counter()
        for pid in filter(str.isdigit, os.listdir('/proc')):
            state = process_state(pid)
            if state is None:
                continue
            found[('ended ' if state[0] in 'ZX' else '') + state[1]] += 1
        return found

    def pool(self):
        return next((pool for pool in self.json('pool', 'list') if pool['template'] == TEMPLATE),
                    None)

    def pool_is_full(self):
        pool = self.pool()
        full = pool and pool['alive'] and (pool['parked'], pool['ready']) == (PARKED, READY)
        return True if full else pool

    def keeper(self):
        return self.pool()['keeper_pid']

    def zygote(self):
        """The VM process that is no PID 1: those that it forks are."""
        return next((pid for pid in self.pids('spore-vmm') if pid_namespaces(pid) == 1), None)

    def waiting_workers(self):
        """Of the zygote's workers those that nobody has taken."""
        zygote = self.zygote()
        taken = {each['pid'] for each in self.json('list')}
        return [pid for pid in self.pids('spore-vmm') if parent_of(pid) == zygote and pid not in taken]

    # ---- What lies about

    def names(self, directory):
        return sorted(os.listdir(os.path.join(self.home, directory)))

    def files(self, root):
        """(path, mode, size) of all in `root`; random names without what is random in them."""
        found = []
        for base, directories, names in os.walk(root):
            for name in directories + names:
                path = os.path.join(base, name)
                try:
                    status = os.lstat(path)
                except FileNotFoundError:
                    continue
                size = 0 if name in directories or name in OF_NO_SIZE else status.st_size
                found.append((anonymous(os.path.relpath(path, root)), oct(status.st_mode), size))
        return sorted(found)


def own_cgroup():
    """The path of a cgroup to be the parent of all sandboxes'; those of runs that were killed go."""
    for mount in ('/sys/fs/cgroup', '/sys/fs/cgroup/unified'):
        if os.path.exists(os.path.join(mount, 'cgroup.controllers')):
            for name in os.listdir(mount):
                if name.startswith(CGROUP):
                    remove_cgroup(os.path.join(mount, name))
            return os.path.join(mount, f'{CGROUP}{time.time_ns()}')
    return None


def in_all_hierarchies(cgroup):
    """A cgroup (v2), and where its counterparts in those of cgroup v1 are that are mounted beside."""
    return [cgroup] + [cgroup.replace('/unified/', f'/{controller}/', 1) for controller in ('cpu', 'memory', 'pids')
                       if '/unified/' in cgroup]


def remove_cgroup(cgroup):
    """If nothing runs in it."""
    for directory in in_all_hierarchies(cgroup):
        for base, directories, _ in os.walk(directory, topdown=False):
            for name in (*directories, '.'):
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.normpath(os.path.join(base, name)))


def answer_of(output, status):
    document = json.loads(output) if output.strip() else None
    if status == 0:
        return document, None
    check(isinstance(document, dict) and 'error' in document, f'status {status} without an error')
    return None, Code(document['error'])


class Code(str):
    """An error's code, with all that it said for whoever prints what was not expected."""

    def __new__(cls, error):
        code = super().__new__(cls, error['code'])
        code.error = error
        return code

    def __format__(self, spec):
        return json.dumps(self.error)


def template_words(name):
    return ('template', 'create', name, '--image', 'freestanding', '--memory', '128M', '--disk', '2M')


def pool_words():
    return ('pool', 'start', TEMPLATE, '--parked', str(PARKED), '--ready', str(READY))


def anonymous(path):
    return re.sub(r'\bdisks/[a-z0-9]+', 'disks/*', re.sub(r'\b(parked|ready|making)-[a-z0-9]+', r'\1-*', path))


def pid_namespaces(pid):
    """In how many of them a process is, from this one on down."""
    try:
        with open(f'/proc/{pid}/status', encoding='utf-8', errors='replace') as file:
            return next(len(line.split()) - 1 for line in file if line.startswith('NSpid:'))
    except OSError:
        return None


def parent_of(pid):
    try:
        with open(f'/proc/{pid}/stat', encoding='utf-8', errors='replace') as file:
            return int(file.read().rpartition(')')[2].split()[1])
    except OSError:
        return None
