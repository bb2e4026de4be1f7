"""Terminals, sessions, secrets, limits and bad input of commands, by `spore` as people and programs use it."""

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time

from host import Failed, Skipped, check, check_equal, wait_until
from sandbox_tests import Sandbox

LIMIT_S = 120


class Terminal:
    """A program on a terminal of its own, as a person's is."""

    def __init__(self, host, *arguments, rows=24, columns=80, term='xterm-256color'):
        self.master, slave = os.openpty()
        self.size(rows, columns)
        self.mode = termios.tcgetattr(slave)
        self.slave = slave
        self.seen = b''

        def take_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [host.spore, *arguments], env=dict(host.environment, TERM=term), stdin=slave, stdout=slave, stderr=slave,
            preexec_fn=take_terminal)  # pylint: disable=subprocess-popen-preexec-fn

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def size(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))

    def type(self, keys):
        os.write(self.master, keys)

    def until_shown(self, condition, what):
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            if time.monotonic() > deadline:
                raise Failed(f'{what!r} was not shown, but {self.seen[-300:]!r}')
            if select.select([self.master], [], [], 1)[0]:
                self.seen += os.read(self.master, 65536)

    def until(self, words):
        """What it has shown, up to and with these bytes."""
        self.until_shown(lambda: words in self.seen, words)
        shown, self.seen = self.seen.split(words, 1)
        return shown + words

    def match(self, pattern):
        """The first group of what it has shown of this form."""
        self.until_shown(lambda: re.search(pattern, self.seen), pattern)
        found = re.search(pattern, self.seen)
        self.seen = self.seen[found.end():]
        return found.group(1).decode()

    def end(self):
        status = self.process.wait(LIMIT_S)
        check_equal(termios.tcgetattr(self.slave), self.mode, "the terminal's mode behind it")
        return status


def shell_on_a_terminal(host):
    with Sandbox(host, 'shell') as name:
        with Terminal(host, 'shell', name, rows=33, columns=101) as terminal:
            terminal.type(b'PS1=; stty -echo; echo "$TERM $(stty size) $0"; tty; echo is-up\n')
            shown = terminal.until(b'\nis-up\r\n')
            check(b'xterm-256color 33 101' in shown, f'TERM and size: {shown!r}')
            check(b'/dev/pts/' in shown, f'tty: {shown!r}')
            raw = termios.tcgetattr(terminal.slave)
            check(not raw[3] & (termios.ICANON | termios.ECHO | termios.ISIG), 'our terminal is not raw')
            terminal.size(50, 132)
            terminal.type(b'until [ "$(stty size)" = "50 132" ]; do sleep 0.1; done; echo resized\n')
            terminal.until(b'resized\r\n')
            # In one program: by the time it says so it is the foreground group, and ^C is its.
            terminal.type(b"sh -c 'echo sleeps; exec sleep 1000'\n")
            terminal.until(b'sleeps\r\n')
            terminal.type(b'\x03')  # interrupts that, and not the shell
            terminal.type(b'echo goes-on\n')
            terminal.until(b'goes-on\r\n')
            screen = b'\x1b[?1049h\x1b[2J\x1b[5;10H\x1b[1;31mred\x1b[0m\xff\x00\x1b[?1049l'
            octal = ''.join(f'\\{byte:03o}' for byte in screen).encode()
            terminal.type(b"printf 'BEGIN" + octal + b"END\\n'\n")
            terminal.until(b'BEGIN')
            check_equal(terminal.until(b'END'), screen + b'END', 'a full-screen program\'s bytes')
            terminal.type(b'exit 7\n')
            check_equal(terminal.end(), 7, 'the status of exit 7')
        with Terminal(host, 'shell', name) as terminal:
            terminal.type(b'PS1=; stty -echo; exec sh -c "echo \\"pid=\\$\\$=\\"; sleep 1001"\n')
            pid = terminal.match(rb'pid=([0-9]+)=')
            terminal.process.send_signal(signal.SIGTERM)
            check_equal(terminal.end(), -signal.SIGTERM, 'the end by SIGTERM')
            wait_until(lambda: host.exec(name, f'kill -0 {pid} 2>/dev/null || echo gone') == 'gone',
                       'the end of what ran in a shell that was hung up')
        done = host.run('exec', '-t', name, '--', 'sh', '-c', 'test -t 0 && test -t 1 && stty size; exit 3', status=3)
        check_equal(done.stdout, b'24 80\r\n', 'exec -t without a terminal here')


def shell_in_tmux(host):
    if not shutil.which('tmux'):
        raise Skipped('tmux is not installed on this host')
    tmux = ['tmux', '-L', f'spore-e2e-{os.getpid()}', '-f', '/dev/null']

    def run(*words):
        return subprocess.run([*tmux, *words], env=host.environment, check=True, capture_output=True,
                              timeout=LIMIT_S).stdout.decode()

    with Sandbox(host, 'tmux') as name:
        run('new-session', '-d', '-s', 'it', '-x', '90', '-y', '20', '/bin/sh')
        try:
            def shows(words):
                wait_until(lambda: words in run('capture-pane', '-p', '-t', 'it'), f'{words} in tmux', LIMIT_S)

            run('send-keys', '-t', 'it', f'{host.spore} shell {name}', 'Enter')
            shows(f'@{name}:')
            run('send-keys', '-t', 'it', 'echo size=$(stty size)=', 'Enter')
            shows('size=20 90=')
            run('send-keys', '-t', 'it', r"printf '\033[2J\033[3;4Hplaced'; read x", 'Enter')
            shows('\n   placed')
            run('send-keys', '-t', 'it', 'C-c')
            run('resize-window', '-t', 'it', '-x', '70', '-y', '15')
            run('send-keys', '-t', 'it', 'clear; echo now=$(stty size)=', 'Enter')
            shows('now=15 70=')
            run('send-keys', '-t', 'it', 'exit 5', 'Enter')
            shows('logout')
            # Told by the shell around it: tmux's own pane_dead_status is at times never set in the bed, for any program.
            run('send-keys', '-t', 'it', 'echo status=$?= $(stty -a | grep -ow -e -icanon -e icanon -e -echo -e echo)', 'Enter')
            shows('status=5= icanon echo')
        finally:
            subprocess.run([*tmux, 'kill-server'], check=False, capture_output=True)


def sessions(host):
    with Sandbox(host, 'sessions') as name:
        def line(session, text, **options):
            return host.run('exec', '-s', session, name, '--', text, **options).stdout.decode()

        host.run('session', 'create', '-e', 'GIVEN=1', '-w', '/usr', name, 'one')
        host.run('session', 'create', name, 'two')
        line('one', 'cd lib; export A="x y"; f() { echo "f $1 $GIVEN"; }; sleep 1000 & echo $! >/tmp/pid')
        check_equal(line('one', 'pwd; echo "$A"; f 2'), '/usr/lib\nx y\nf 2 1\n', 'what a session keeps')
        check_equal(line('two', 'pwd; echo "${A-unset}"; kill -0 $(cat /tmp/pid) && echo there'),
                    '/root\nunset\nthere\n', 'what another sees')
        # One host for both: what one listens on the other reaches.
        line('one', 'echo from-one >/tmp/page; cd /tmp; python3 -m http.server 8123 >/dev/null 2>&1 & cd /usr/lib')
        host.run('process', 'wait-port', name, '8123', '--timeout', '120s')
        check_equal(line('two', 'curl -s http://127.0.0.1:8123/page'), 'from-one\n', 'localhost of another session')
        line('one', 'exit 4', status=4)
        check_equal(line('one', 'pwd; echo "${A-unset} $GIVEN"'), '/usr/lib\nunset 1\n', 'a session behind exit')
        done = host.json('exec', '--timeout', '1s', '-s', 'one', name, '--', 'cd /tmp; sleep 1000', status=124)
        check_equal((done['timed_out'], done['session_ended']), (True, True), 'timed_out and session_ended')
        check_equal(line('one', 'pwd; kill $(cat /tmp/pid) && echo lived'), '/tmp\nlived\n', 'a session behind a timeout')
        check_equal(line('two', 'echo "e0"; (exit 5)', status=5), 'e0\n', 'a status')
        found = {each['name']: (each['cwd'], each['busy']) for each in host.json('session', 'list', name)}
        check_equal(found, {'one': ('/tmp', False), 'two': ('/root', False)}, 'spore session list')
        host.run('session', 'create', name, 'one', status=73)
        host.run('session', 'delete', name, 'one')
        host.run('session', 'delete', name, 'one', status=66)
        error = host.json('exec', '-s', 'one', name, '--', 'true', status=125)['error']
        check_equal(error['code'], 'not_found', 'a line for a session that is deleted')
        # A session has a control group of its own: what left its sessions and process groups dies with it.
        line('two', 'setsid sh -c "echo \\$\\$ >/tmp/far; exec sleep 1000" & until [ -s /tmp/far ]; do sleep 0.1; done')
        host.run('session', 'delete', name, 'two')
        wait_until(lambda: host.exec(name, 'kill -0 $(cat /tmp/far) 2>/dev/null || echo gone') == 'gone',
                   'the end of a deleted session\'s daemon')


def secrets(host):
    secret = f'secret-{os.urandom(8).hex()}'
    file = os.path.join(host.directory('secrets'), 'file')
    with open(file, 'w', encoding='utf-8') as out:
        out.write(f'# a comment\n\nFROM_FILE={secret}\nFROM_HERE\n')
    with Sandbox(host, 'secrets') as name:
        host.run('session', 'create', name, 'other')
        environment = dict(host.environment, FROM_HERE=secret)
        holder = subprocess.Popen(
            [host.spore, 'exec', '-e', 'FROM_HERE', '--env-file', file, name, '--', 'sh', '-c',
             'echo "$FROM_FILE $FROM_HERE"; exec sleep 1000'], env=environment, stdout=subprocess.PIPE)
        try:
            check_equal(holder.stdout.readline().decode(), f'{secret} {secret}\n', 'what the process was given')
            with open(f'/proc/{holder.pid}/cmdline', 'rb') as argv:
                check(secret.encode() not in argv.read(), "it is in spore's argv")
            # In the guest: in that process alone, and in no argv. (The brackets keep grep itself out.)
            pattern = f'[s]{secret[1:]}'
            found = host.exec(name, f'grep -l {pattern} /proc/[0-9]*/environ 2>/dev/null | wc -l; '
                                    f'cat /proc/[0-9]*/cmdline | tr "\\0" "\\n" | grep -v grep | grep -c "^{pattern}"; '
                                    f'dmesg | grep -c {pattern}; env | grep -c {pattern}; true')
            check_equal(found.split(), ['1', '0', '0', '0'], 'environments, argvs, kernel log, and another command')
            found = host.run('exec', '-s', 'other', name, '--', 'set; env').stdout.decode()
            check(secret not in found, 'it is in a session')
        finally:
            holder.kill()
            holder.wait()
        kept = subprocess.run(['grep', '-rlF', secret, host.home, '--include=*.json', '--include=*log*', '--include=*.db*'],
                              stdout=subprocess.PIPE, check=False).stdout.decode().split()
        check_equal([each for each in kept if each != file], [], 'records and logs that have it')
        kept = subprocess.run(['grep', '-rlF', secret, os.path.join(host.home, 'templates')],
                              stdout=subprocess.PIPE, check=False).stdout.decode().split()
        check_equal(kept, [], "files of the snapshot of before that have it")
        host.run('update', name, '-e', 'LATER=all of them', '-e', 'GONE=1')
        host.run('update', name, '--unset', 'GONE')
        check_equal(host.exec(name, 'echo "$LATER ${GONE-unset}"'), 'all of them unset', 'the environment of all')
        check_equal(host.run('exec', '-e', 'LATER=own', name, '--', 'sh', '-c', 'echo $LATER').stdout, b'own\n', 'of one')
        done = host.run('exec', '-e', 'A=1', '--unset', 'HOME', name, '--', 'sh', '-c', 'echo "$A ${HOME-no}"')
        check_equal(done.stdout, b'1 no\n', '--unset')
        check_equal(host.run('exec', '--clear-env', '-e', 'A=1', name, '--', '/usr/bin/env').stdout, b'A=1\n', '--clear-env')
        host.run('exec', '-e', 'NOT_HERE_AT_ALL', name, '--', 'true', status=125)


def bad_input(host):
    with Sandbox(host, 'bad') as name:
        def code(*words):
            return host.json('exec', *words, status=125)['error']['code']

        check_equal(code('-w', '/no/such', name, '--', 'true'), 'not_found', 'a missing cwd')
        check_equal(code('-u', 'nobody-here', name, '--', 'true'), 'not_found', 'an unknown user')
        done = host.run('exec', name, '--', 'sh', '-c', 'echo $#', 'sh', *['x'] * 10_000)
        check_equal(done.stdout, b'10000\n', '10,000 arguments')
        file = os.path.join(host.directory('large'), 'env')
        with open(file, 'w', encoding='utf-8') as out:
            for number in range(1000):
                out.write(f'V{number}={"x" * 100_000}\n')
        check_equal(code('--env-file', file, name, '--', 'true'), 'invalid_argument', '100 MB of environment')
        os.remove(file)
        data = bytes(range(256)) * 400
        check_equal(host.run('exec', '-i', name, '--', 'cat', stdin=data).stdout, data, 'binary stdin')
        # A client that does not read holds up no other, and takes its command with it.
        deaf = host.start('exec', name, '--', 'sh', '-c', 'echo $$ >/tmp/deaf; exec yes', stdout=subprocess.PIPE)
        wait_until(lambda: host.exec(name, 'cat /tmp/deaf 2>/dev/null; true') != '', 'the start of yes')
        deaf.kill()
        deaf.wait()
        deaf.stdout.close()
        wait_until(lambda: host.exec(name, 'kill -0 $(cat /tmp/deaf) 2>/dev/null || echo gone') == 'gone', 'the end of yes')
        # As root in the guest, all that may be killed: what was written before is not lost.
        done = host.run('exec', name, '--', 'sh', '-c', 'echo before; kill -9 -1; echo after', status=None)
        check(done.stdout.startswith(b'before\n'), f'kill -9 -1: {done.stdout!r}, {done.stderr!r}')
        check_equal(host.exec(name, 'echo on'), 'on', 'what it says after kill -9 -1')
        # A disk that is full is the program's to report; the agent goes on.
        # (All but little of it is reserved first, as writing it all takes minutes here.)
        host.exec(name, 'fallocate -l $((($(stat -fc %f /) - 4096) * $(stat -fc %S /))) /reserved')
        done = host.run('exec', name, '--', 'sh', '-c', 'cat /dev/zero >/fill', status=None)
        check(done.returncode != 0 and b'No space left' in done.stderr, f'a full disk: {done.stderr!r}')
        check_equal(host.exec(name, 'rm /fill /reserved; echo on'), 'on', 'what it says after a full disk')
        resident = host.exec(name, 'grep VmRSS /proc/1/status')
        check(int(resident.split()[1]) <= 4096, f'the agent has more than 4 MiB: {resident}')
        check(int(host.exec(name, 'stat -Lc %s /proc/1/exe')) <= 3_000_000, 'the agent is larger than 3 MB')


# Every process of it forks as long as it may, and stays.
BOMB = '''
import os, time
while True:
    try:
        os.fork()
    except BlockingIOError:
        time.sleep(1)
'''


def out_of_processes(host):
    with Sandbox(host, 'bomb') as name:
        limit = '/sys/fs/cgroup/commands/pids.max'
        most, kernel = (int(each) for each in host.exec(name, f'cat {limit} /proc/sys/kernel/threads-max').split())
        check(100 < most < kernel, f'{most} processes for commands, and {kernel} for the kernel')
        # So many take minutes where instructions are emulated: fewer are told of alike.
        fewer = 120
        host.exec(name, f'echo {fewer} >{limit}')
        bomb = host.start('exec', '--timeout', '30s', name, '--', 'python3', '-c', BOMB,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        told = {}

        def refused():
            done = host.run('exec', '--json', name, '--', 'true', status=None)
            told.update(json.loads(done.stdout).get('error', {}))
            return told

        try:
            wait_until(refused, 'a refusal', LIMIT_S)
            check_equal(told['code'], 'resource_exhausted', 'error code')
            check(f'as many as there may be, {fewer}' in told['message'], f'it says {told["message"]!r}')
        finally:
            check_equal(bomb.wait(LIMIT_S), 124, 'the end of the bomb')
        wait_until(lambda: host.run('exec', name, '--', 'true', status=None).returncode == 0, 'room after the bomb')


def out_of_memory(host):
    with Sandbox(host, 'oom') as name:
        hog = "x = [b'x' * (4 << 20) for _ in range(500)]"  # at once it would be refused
        done = host.run('exec', name, '--', 'python3', '-c', hog, status=137)
        check(b'out of memory' in done.stderr, f'does not say so: {done.stderr!r}')
        # A process of it, whatever it makes of that.
        done = host.json('exec', name, '--', 'sh', '-c', f'python3 -c "{hog}"; exit 3', status=3)
        check_equal((done['oom_killed'], done['signal']), (True, 0), 'oom_killed and signal')
        done = host.json('exec', name, '--', 'sh', '-c', 'kill -9 $$', status=137)
        check_equal(done['oom_killed'], False, 'oom_killed of one killed by itself')
        check_equal(host.exec(name, 'cat /proc/1/oom_score_adj'), '-1000', "the agent's OOM score")
        # It comes first in other ways too, and nobody else does.
        check_equal(host.exec(name, 'cut -d" " -f19 /proc/1/stat; nice'), '-20\n0', 'priorities of agent and command')


# Sets the instruction pointer of PID 1 to where nothing is: no signal could end it.
KILL_INIT = '''
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
ATTACH, POKEUSER, DETACH, RIP = 16, 6, 17, 128
assert libc.ptrace(ATTACH, 1, None, None) == 0, os.strerror(ctypes.get_errno())
os.waitpid(1, 0x40000000)
assert libc.ptrace(POKEUSER, 1, RIP, 8) == 0, os.strerror(ctypes.get_errno())
libc.ptrace(DETACH, 1, None, None)
time.sleep(1000)
'''


def agent_killed(host):
    host.run('create', 'panic', '--template', host.template(host.fast_kernel), '--env', 'KEPT=yes', '--label', 'a=b')
    try:
        waiting = host.start('exec', '--json', 'panic', '--', 'sleep', '1000', stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
        host.exec('panic', 'touch /root/of-the-old-one')
        host.run('exec', 'panic', '--', 'python3', '-c', KILL_INIT, status=125, limit_s=LIMIT_S)
        check_equal(waiting.wait(LIMIT_S), 125, 'the status of a command that ran meanwhile')
        check(b'"unavailable"' in waiting.stdout.read(), 'its error is not unavailable')
        wait_until(lambda: [each['state'] for each in host.json('list') if each['id'] == 'panic'] == ['dead'],
                   'that spore list calls it dead')
        begun = time.monotonic()
        error = host.json('exec', 'panic', '--', 'true', status=125)['error']
        check_equal(error['code'], 'unavailable', 'error code')
        check(time.monotonic() - begun < 10, f'it took {time.monotonic() - begun:.1f} s to say so')
        made = host.json('restart', 'panic')
        check_equal((made['id'], made['state'], made['labels']), ('panic', 'running', {'a': 'b'}), 'restarted')
        check_equal(host.exec('panic', 'hostname; echo $KEPT; test ! -e /root/of-the-old-one && echo gone'),
                    'panic\nyes\ngone', 'what it says then')
        check_equal(host.json('restart', 'panic', status=69)['error']['code'], 'unavailable',
                    'restarting one that runs')
    finally:
        with contextlib.suppress(ProcessLookupError):
            waiting.kill()
        host.run('destroy', 'panic')


def hundred_at_once(host):
    with Sandbox(host, 'hundred') as name:
        host.exec(name, 'mkfifo /tmp/go')
        all_of_them = [host.start('exec', name, '--', 'sh', '-c', f'read x </tmp/go; echo {number}', stdout=subprocess.PIPE)
                       for number in range(100)]
        wait_until(lambda: host.exec(name, 'ps -e -o args= | grep -c "^sh -c [r]ead"') == '100', 'a hundred commands', 300)
        host.exec(name, 'sleep 2 >/tmp/go')  # all of them have it open, and see its end
        check_equal([each.communicate(timeout=LIMIT_S)[0] for each in all_of_them],
                    [b'%d\n' % number for number in range(100)], 'what they say')


TESTS = [
    ('shell-terminal', shell_on_a_terminal),
    ('shell-tmux', shell_in_tmux),
    ('exec-sessions', sessions),
    ('exec-secrets', secrets),
    ('exec-bad-input', bad_input),
    ('exec-out-of-processes', out_of_processes),
    ('exec-out-of-memory', out_of_memory),
    ('exec-hundred-at-once', hundred_at_once),
    ('exec-agent-killed', agent_killed),
]
