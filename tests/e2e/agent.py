"""The host's end of the agent's protocol (schema/agent.fbs), for VMs that `spore exec` does not know."""

import dataclasses
import os
import select
import socket
import struct
import time

from flat import U8, U16, U32, U64, Table, Writer

PORT = 1024
IDENTIFIER = b'SPAG'
(ERROR, DONE, HELLO, HELLO_REPLY, PING, PONG, EXEC, STARTED, START_FAILED, OUTPUT, STDIN_DATA,
 STDIN_CLOSED, CREDIT, SIGNAL, EXITED, IDENTITY, PREPARE_SNAPSHOT, POWER_OFF,
 GROW_ROOT) = range(1, 20)
CREDIT_BYTES = 1 << 20


class AgentError(Exception):
    pass


@dataclasses.dataclass
class Result:
    status: int
    out: bytes
    err: bytes

    @property
    def text(self):
        return self.out.decode('utf-8', 'replace')


def connect_vsock(path, port, limit_s):
    """A connection to `port` of the guest whose vsock is at `path`; OSError if nobody listens."""
    return connect_vsock_port(path, port, limit_s)[0]


def connect_vsock_port(path, port, limit_s):
    """The same, and the connection's port at the host."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(limit_s)
    try:
        connection.connect(path)
        connection.sendall(b'CONNECT %d\n' % port)
        line = b''
        while not line.endswith(b'\n'):
            byte = connection.recv(1)
            if not byte:
                raise ConnectionRefusedError(f'port {port} of the guest: refused')
            line += byte
        if not line.startswith(b'OK '):
            raise AgentError(f'vsock: CONNECT was answered with {line!r}')
    except BaseException:
        connection.close()
        raise
    return connection, int(line[3:])


def attach_vsock(path, port, limit_s):
    """The host end of the connection that was carried through a snapshot: nothing is answered."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(limit_s)
    connection.connect(path)
    connection.sendall(b'ATTACH %d\n' % port)
    return connection


class Agent:
    @classmethod
    def attach(cls, path, last_stream, limit_s):
        """An agent without a greeting: whoever was before us said Hello, and used these streams."""
        self = cls.__new__(cls)
        self.streams, self.sealed = last_stream, True
        self.socket = attach_vsock(path, PORT, limit_s)
        return self

    def __init__(self, path, limit_s):
        deadline = time.monotonic() + limit_s
        self.streams = 0
        while True:
            try:
                self.socket, self.host_port = connect_vsock_port(
                    path, PORT, max(1, deadline - time.monotonic()))
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise AgentError(f'agent: did not answer in {limit_s} s: {error}') from error
                select.select([], [], [], 0.1)
        reply = self._ask(HELLO, {0: (U16, 1), 1: (U16, 1)}, HELLO_REPLY)
        self.sealed = reply.scalar(3, U8) != 0

    def close(self):
        self.socket.close()

    def identify(self, hostname):
        self.confirm(self.send_identity(hostname))

    def send_identity(self, hostname):
        return self._send(IDENTITY, {0: hostname, 1: os.urandom(16).hex(), 2: os.urandom(64),
                                     3: (U64, time.time_ns())})

    def confirm(self, stream):
        got, _ = self._receive(stream)
        if got != DONE:
            raise AgentError(f'agent: answered request on stream {stream} with {got}')

    def prepare_snapshot(self):
        self._ask(PREPARE_SNAPSHOT, {}, DONE)

    def grow_root(self):
        self._ask(GROW_ROOT, {}, DONE)

    def power_off(self):
        self._ask(POWER_OFF, {}, DONE)

    def run(self, *argv, limit_s=120, check=True, environment=()):
        """Runs a command (a single word with blanks is a line for the shell) and waits for it."""
        result = self.collect(self.start(*argv, limit_s=limit_s, environment=environment), limit_s)
        if check and result.status != 0:
            raise AgentError(f'{" ".join(argv)[:200]}: status {result.status}: '
                             f'{(result.err or result.out).decode("utf-8", "replace")[-600:]}')
        return result

    def start(self, *argv, limit_s=120, environment=()):
        """Begins the command; its stream, for collect()."""
        if len(argv) == 1 and ' ' in argv[0]:
            argv = ('/bin/sh', '-c', argv[0])
        return self._send(EXEC, {0: list(argv), 1: list(environment), 7: (U64, limit_s * 1000),
                                 8: (U32, CREDIT_BYTES), 9: (U32, CREDIT_BYTES)})

    def collect(self, stream, limit_s=120):
        """The result of a command that may have been begun before a snapshot."""
        self.socket.settimeout(limit_s)
        collected = {1: bytearray(), 2: bytearray()}
        while True:
            kind, body = self._receive(stream)
            if kind == OUTPUT:
                data = body.bytes(1)
                collected[body.scalar(0, U8)] += data
                self._send(CREDIT, {0: (U8, body.scalar(0, U8)), 1: (U32, len(data))}, stream)
            elif kind == START_FAILED:
                status = body.scalar(0, U8)
                collected[2] += body.bytes(2)
                break
            elif kind == EXITED:
                signal = body.scalar(1, U8)
                status = 128 + signal if signal else body.scalar(0, U8)
                if body.scalar(2, U8):
                    collected[2] += b'(timed out)'
                break
            elif kind != STARTED:
                raise AgentError(f'exec: unexpected frame {kind}')
        return Result(status, bytes(collected[1]), bytes(collected[2]))

    def _send(self, kind, body, stream=None):
        if stream is None:
            self.streams += 1
            stream = self.streams
        frame = Writer(IDENTIFIER, size_prefixed=True)
        self.socket.sendall(frame.finish({0: (U32, stream), 1: (U8, kind), 2: body}))
        return stream

    def _ask(self, kind, body, wanted):
        got, reply = self._receive(self._send(kind, body))
        if got != wanted:
            raise AgentError(f'agent: answered request {kind} with {got}')
        return reply

    def _receive(self, stream):
        while True:
            size = struct.unpack(U32, self._exactly(4))[0]
            frame = Table.root(self._exactly(size))
            kind, body = frame.scalar(1, U8), frame.table(2)
            if kind == ERROR:
                raise AgentError(f'agent: {body.text(1)}')
            if frame.scalar(0, U32) == stream:
                return kind, body

    def _exactly(self, size):
        data = bytearray()
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise AgentError('agent: the connection has ended')
            data += more
        return bytes(data)
