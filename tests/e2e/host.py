"""What the tests work with: the programs, a home of their own, and VMs started without `spore create`."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time

import agent
from flat import U8, U32, U64, Table, Writer

BOOT_LIMIT_S = 240  # a stock kernel takes 10 to 20 s where KVM is emulated, more when it is busy


class Failed(Exception):
    """A test's finding."""


class Skipped(Exception):
    """Why a test cannot run here."""


def not_yet(test, why):
    """A test that has not been seen to pass as it should: skipped, counted, and there for who looks into it."""
    def run(host):
        if not os.environ.get('SPORE_E2E_ALL'):
            raise Skipped(f'{why} (SPORE_E2E_ALL=1 runs it)')
        test(host)
    return run


def check(condition, message):
    if not condition:
        raise Failed(message)


def check_equal(found, expected, what):
    if found != expected:
        raise Failed(f'{what}: {shorten(found)}, expected {shorten(expected)}')


def shorten(value):
    text = repr(value)
    return text if len(text) < 300 else text[:300] + '...'


def wait_until(condition, what, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f'{what}: not within {limit_s} s')
        time.sleep(0.05)


class Host:
    """`home` is $SPORE_HOME/e2e: tests never touch what else is in $SPORE_HOME but its images."""

    def __init__(self, spore, image, reuse):
        self.spore = spore
        self.vmm = find_program(spore, 'spore-vmm')
        self.image = image
        self.reuse = reuse
        outer = os.environ.get('SPORE_HOME', '/var/lib/spore')
        self.home = os.path.join(outer, 'e2e')
        self.images = os.path.join(outer, 'images')
        self.image_directory = os.path.join(self.images, image)
        self.work = os.path.join(self.home, 'work')
        self.environment = dict(os.environ, SPORE_HOME=self.home)
        self.names = 0

    def prepare(self):
        description = os.path.join(self.image_directory, 'image.json')
        if not os.path.exists(description):
            raise Skipped(f'image {self.image}: not in {self.images}; tests/e2e/make_image makes it')
        with open(description, encoding='utf-8') as file:
            self.description = json.load(file)
        if not self.reuse:
            self.clean()
        shutil.rmtree(self.work, ignore_errors=True)
        os.makedirs(self.work)
        if not os.path.islink(os.path.join(self.home, 'images')):
            os.symlink(self.images, os.path.join(self.home, 'images'))

    def clean(self):
        """Ends what an earlier run that was killed has left, and removes the home."""
        left = [*self.processes('spore'), *self.vmm_processes()]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.vmm_processes(), 'ending VMs of an earlier run')
        shutil.rmtree(self.home, ignore_errors=True)

    def processes(self, program):
        """PIDs of those running `program` that `spore` of this home has started. A jailed one's
        directory tells nothing; its environment does."""
        mine = f'SPORE_HOME={self.home}'.encode()
        found = []
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                with open(f'/proc/{pid}/environ', 'rb') as file:
                    environment = file.read().split(b'\0')
                if mine in environment and \
                        os.path.basename(os.readlink(f'/proc/{pid}/exe')) == program:
                    found.append(int(pid))
            except OSError:
                pass
        return found

    def vmm_processes(self):
        return self.processes('spore-vmm')

    def kernels(self):
        return self.description['kernels']

    def kernel_file(self, kernel, key):
        return os.path.join(self.image_directory, self.kernels()[kernel][key])

    @property
    def fast_kernel(self):
        return 'tuned' if 'tuned' in self.kernels() else 'stock'

    @property
    def rootfs(self):
        return os.path.join(self.image_directory, self.description['rootfs']['path'])

    def directory(self, name):
        self.names += 1
        path = os.path.join(self.work, f'{name}-{self.names}')
        os.mkdir(path)
        return path

    def start(self, *arguments, **options):
        return subprocess.Popen([self.spore, *arguments], env=self.environment, **options)

    def run(self, *arguments, stdin=None, status=0, limit_s=300):
        """Runs `spore`; its completed process. `status`: the one expected, None for any."""
        done = subprocess.run([self.spore, *arguments], env=self.environment, capture_output=True,
                              timeout=limit_s, check=False,
                              **({'stdin': subprocess.DEVNULL} if stdin is None
                                 else {'input': stdin}))
        if status is not None and done.returncode != status:
            raise Failed(f'spore {" ".join(arguments)[:200]}: status {done.returncode}, expected '
                         f'{status}: {done.stderr.decode("utf-8", "replace")[-600:]}')
        return done

    def json(self, *arguments, status=0):
        words = list(arguments)
        words.insert(words.index('--') if '--' in words else len(words), '--json')
        return json.loads(self.run(*words, status=status).stdout)

    def exec(self, sandbox, *argv, limit_s=300):
        """What a command in a sandbox writes to stdout, as text without the last newline."""
        if len(argv) == 1:
            argv = ('/bin/sh', '-c', argv[0])
        done = self.run('exec', sandbox, '--', *argv, limit_s=limit_s)
        return done.stdout.decode('utf-8', 'replace').rstrip('\n')

    def template(self, kernel='stock', cpus=1, memory='256M'):
        """The name of a template of this kind, made when first asked for."""
        name = f'{kernel}-{cpus}cpu'
        if not os.path.exists(os.path.join(self.home, 'templates', name, 'template.json')):
            self.run('template', 'create', name, '--image', self.image, '--kernel', kernel,
                     '--cpus', str(cpus), '--memory', memory, '--disk', '2G')
        return name


def find_program(spore, name):
    here = os.path.dirname(os.path.realpath(spore))
    for place in ('.', '../vmm', '../libexec/spore'):
        path = os.path.normpath(os.path.join(here, place, name))
        if os.access(path, os.X_OK):
            return path
    raise Skipped(f'{name}: not beside {spore}')


class Vm:
    """A spore-vmm in a directory of its own, with a control socket and, if asked for, vsock."""

    def __init__(self, host, name, *options, vsock=True, prefix=()):
        self.directory = host.directory(name)
        self.console_path = os.path.join(self.directory, 'console')
        self.vsock_path = os.path.join(self.directory, 'v')
        self.agent = None
        words = [*prefix, host.vmm, *options, '--serial', 'file:console', '--control', 'control']
        if vsock:
            words += ['--vsock', 'v']
        with open(os.path.join(self.directory, 'log'), 'wb') as log:
            self.process = subprocess.Popen(words, cwd=self.directory, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.agent:
            self.agent.close()
        self.process.kill()
        self.process.wait()

    def log(self):
        return read_text(os.path.join(self.directory, 'log'))

    def console(self):
        return read_text(self.console_path)

    def wait_for_agent(self, limit_s=BOOT_LIMIT_S):
        wait_until(lambda: os.path.exists(self.vsock_path) or self.process.poll() is not None,
                   'the vsock socket', limit_s)
        check(self.process.poll() is None, f'spore-vmm ended at once: {self.log()}')
        try:
            self.agent = agent.Agent(self.vsock_path, limit_s)
        except agent.AgentError as error:
            raise Failed(f'{error}; console: {self.console()[-400:]}; log: {self.log()}') from error
        return self.agent

    def new_agent(self):
        return agent.Agent(self.vsock_path, 60)

    def wait(self, limit_s=BOOT_LIMIT_S):
        """Waits for the end of the VM; spore-vmm's exit status."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise Failed(f'the VM did not end in {limit_s} s; console: '
                         f'{self.console()[-400:]}') from None

    def control(self, request, body=None):
        """Sends a request of schema/control.fbs and returns (kind, table) of its reply."""
        kinds = {'status': 1, 'pause': 2, 'resume': 3, 'snapshot': 4, 'quit': 5}
        path = os.path.join(self.directory, 'control')
        wait_until(lambda: os.path.exists(path) or self.process.poll() is not None, 'control socket')
        check(self.process.poll() is None, f'spore-vmm ended: {self.log()}')
        packet = Writer(b'SPCT').finish({0: (U8, kinds[request]), 1: body or {}})
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(120)
            wait_until(lambda: connection.connect_ex(path) == 0, 'connecting to the control socket')
            connection.send(packet)
            reply = Table.root(connection.recv(65536))
        kind, table = reply.scalar(0, U8), reply.table(1)
        if kind == 3:
            raise Failed(f'{request}: {table.text(1)}')
        return kind, table

    def state(self):
        """(run state, memory bytes, vCPUs)"""
        table = self.control('status')[1]
        states = ('booting', 'running', 'paused', 'ended')
        return states[table.scalar(0, U8)], table.scalar(1, U64), table.scalar(2, U32)

    def snapshot(self, directory, carry=(0, 0)):
        """`carry`: the vsock connection to carry, as host port and guest port."""
        self.control('snapshot', {0: directory, 1: (U32, carry[0]), 2: (U32, carry[1])})


def read_text(path):
    with open(path, encoding='utf-8', errors='replace') as file:
        return file.read()
