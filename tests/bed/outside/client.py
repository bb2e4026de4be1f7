"""Runs one command in a bed that is up: the client's end of the channel."""
import os
import select
import signal
import socket
import sys
import time

import wire
from outside.message import BedError, say

CONNECT_LIMIT_S = 60  # on a busy machine, with the bed's one CPU full of other commands
KILL_LIMIT_S = 15  # the server ends a killed command within about 3 s


class BedIsGone(Exception):
    """The connection ended without an exit status."""


class BedHangs(Exception):
    """The server does not do what it is asked."""


def stdin_to_pass():
    """Our stdin, or None if it is closed or a terminal."""
    try:
        os.fstat(0)
    except OSError:
        return None
    return None if os.isatty(0) else 0


class Run:
    def __init__(self, state, argv, env, timeout_s):
        self.timeout_s = timeout_s
        self.argv = argv
        self.stdin = stdin_to_pass()
        self.unacknowledged = 0
        self.outgoing = bytearray(wire.json_frame(wire.HELLO, {
            "token": state["token"], "op": "exec", "argv": argv, "cwd": os.getcwd(), "env": env,
            "stdin": self.stdin is not None}))
        self.reader = wire.Reader()
        self.deadline = time.monotonic() + timeout_s
        self.verdict = None  # what we answer whatever the command's own status is
        self.connection = socket.create_connection(("127.0.0.1", state["port"]), CONNECT_LIMIT_S)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.setblocking(False)
        self.wake, self.waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self):
        """The exit status for our own process."""
        old = {number: signal.signal(number, lambda *_: None)
               for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        signal.set_wakeup_fd(self.waker)
        try:
            while True:
                status = self.step()
                if status is not None:
                    return status if self.verdict is None else self.verdict
        except (ConnectionError, TimeoutError) as error:
            raise BedIsGone(str(error)) from None
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in old.items():
                signal.signal(number, handler)
            self.connection.close()

    def step(self):
        ready = self.wait()
        if time.monotonic() >= self.deadline:
            self.strike()
        if self.wake in ready:
            for number in os.read(self.wake, 64):
                self.outgoing += wire.json_frame(wire.SIGNAL, number)
        if self.stdin in ready:
            self.read_stdin()
        events = ready.get(self.connection.fileno(), 0)
        if events & select.POLLOUT:
            del self.outgoing[:self.connection.send(self.outgoing)]
        if events & ~select.POLLOUT:
            data = self.connection.recv(4 * wire.CHUNK)
            if not data:
                raise BedIsGone("the bed closed the connection")
            self.reader.feed(data)
            for kind, payload in self.reader.frames():
                status = self.take(kind, payload)
                if status is not None:
                    return status
        return None

    def wait(self):
        poll = select.poll()
        poll.register(self.connection.fileno(), select.POLLIN | (select.POLLOUT if self.outgoing else 0))
        poll.register(self.wake, select.POLLIN)
        if self.stdin is not None and self.unacknowledged < wire.STDIN_WINDOW:
            poll.register(self.stdin, select.POLLIN)
        return dict(poll.poll(max(0.0, self.deadline - time.monotonic()) * 1000 + 1))

    def strike(self):
        """The time limit: the command is killed, and its exit is waited for a little longer."""
        if self.verdict is not None:
            raise BedHangs(f"the bed did not end the command within {KILL_LIMIT_S} s")
        say(f"time limit of {self.timeout_s:g} s reached, killed: {' '.join(self.argv)}")
        self.kill(124)

    def kill(self, verdict):
        self.verdict = verdict
        self.outgoing += wire.frame(wire.KILL)
        self.deadline = time.monotonic() + KILL_LIMIT_S

    def read_stdin(self):
        try:
            data = os.read(self.stdin, wire.CHUNK)
        except OSError:  # a directory, say
            data = b""
        if data:
            self.unacknowledged += len(data)
            self.outgoing += wire.frame(wire.STDIN, data)
        else:
            self.stdin = None
            self.outgoing += wire.frame(wire.STDIN_END)

    def take(self, kind, payload):
        if kind == wire.STDOUT:
            self.write(1, payload)
        elif kind == wire.STDERR:
            self.write(2, payload)
        elif kind == wire.ACK:
            self.unacknowledged -= int(payload)
        elif kind == wire.EXIT:
            return self.exit_status(payload)
        else:
            raise BedError(f"unknown frame {kind!r} from the bed")
        return None

    def write(self, fd, data):
        try:
            while data:
                try:
                    data = data[os.write(fd, data):]
                except BlockingIOError:
                    select.select([], [fd], [])
        except BrokenPipeError:
            if self.verdict is None:  # nobody reads it any more, as under a shell's `| head`
                self.kill(128 + signal.SIGPIPE)

    @staticmethod
    def exit_status(payload):
        result = wire.json.loads(payload)
        if "error" in result:
            say(result["error"])
        return 128 + result["signal"] if "signal" in result else result["code"]


def connect_and_run(state, argv, env, timeout_s):
    try:
        return Run(state, argv, env, timeout_s).run()
    finally:
        sys.stdout.flush()
