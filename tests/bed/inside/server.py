"""PID 1 of the bed: runs the commands that tests/bed/run sends, several at once, and reaps orphans.

Every connection is served by a forked child with one poll loop and no threads. Each command gets a
session and a cgroup of its own (/sys/fs/cgroup/bed/N), so that a time limit ends all of it; what it
leaves running when it ends by itself stays, as it would on a real host.
"""
import ctypes
import errno
import hmac
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import wire  # noqa: E402

CGROUPS = "/sys/fs/cgroup/bed"
CLONE_NEWNET = 0x40000000
GUEST_ADDRESS = "10.0.2.15"
MAX_BACKLOG = 4 * wire.CHUNK  # output the client has not taken yet: no more is read from the command
LAST_OUTPUT_S = 0.25  # after the command ended: how long a silent, still open pipe is waited for
GUARD_S = 0.5  # between looks at the inode count: it grows by up to 5000 a second
KILL_GRACE_S = 2.0  # between SIGTERM and the end of the command's cgroup
TREE_TIMEOUT_S = 0.1  # the tree's share trusts what it looked up for this long: outside/keeper.py
libc = ctypes.CDLL(None, use_errno=True)


def checked(result, what):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def console(message):
    with open("/dev/console", "w", encoding="utf-8") as file:
        file.write(f"bed: {message}\n")


def write_file(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def listen(port):
    """The channel's interface lives in a network namespace of its own: no rule, route or interface
    that a test sets up in the bed can cut the channel, and the bed itself has only lo."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    checked(libc.unshare(CLONE_NEWNET), "unshare")
    subprocess.run(
        ["/bin/busybox", "ip", "link", "set", "eth0", "netns", "1"], check=True,
        preexec_fn=lambda: checked(libc.setns(home, CLONE_NEWNET), "setns"))
    for command in ("link set lo up", f"addr add {GUEST_ADDRESS}/24 dev eth0", "link set eth0 up"):
        subprocess.run(["/bin/busybox", "ip", *command.split()], check=True)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((GUEST_ADDRESS, port))
    listener.listen(64)
    checked(libc.setns(home, CLONE_NEWNET), "setns")
    os.close(home)
    return listener


def see_fresh_files():
    """What is on the host when `run` is called is what the command sees. The host's share is cached
    for ever, so its unused names are forgotten here (an unchanged file's pages stay cached); names
    in the tree's share that a running process holds expire by themselves."""
    begin = time.monotonic()
    write_file("/proc/sys/vm/drop_caches", "2\n")  # 2: names and inodes
    time.sleep(max(0.0, TREE_TIMEOUT_S - (time.monotonic() - begin)))


def guard_file_limit(limit):
    """virtiofsd holds a descriptor for every inode this kernel remembers, and where root may not raise
    its limit (20000, say) a walk over /usr would end in EMFILE: unused ones are forgotten in time."""
    def inodes():
        with open("/proc/sys/fs/inode-nr", encoding="ascii") as file:
            return int(file.read().split()[0])

    least = inodes()
    while True:
        time.sleep(GUARD_S)
        now = inodes()
        least = min(least, now)
        if now - least > limit // 2:
            write_file("/proc/sys/vm/drop_caches", "2\n")
            least = inodes()


def remove_empty_cgroups():
    """Those of commands that are over (each is named after the process that served it) and left
    nothing running."""
    for name in os.listdir(CGROUPS):
        if name.isdigit() and not os.path.exists(f"/proc/{name}"):
            try:
                os.rmdir(f"{CGROUPS}/{name}")
            except OSError:
                pass


class Command:
    """One command, from the client's frames to its exit status."""

    def __init__(self, connection, hello, reader):
        self.connection = connection
        self.hello = hello
        self.cgroup = f"{CGROUPS}/{os.getpid()}"
        self.reader = reader  # may hold frames that came with the hello
        self.output = bytearray()  # frames not yet sent
        self.input = bytearray()  # stdin not yet taken
        self.input_ended = False
        self.exited_at = None
        self.status = None
        self.kill_at = None
        self.killed = False

    def start(self):
        cwd = self.hello["cwd"]
        if not os.path.isdir(cwd):
            raise OSError(errno.ENOENT, f"working directory {cwd} does not exist in the bed")
        os.makedirs(self.cgroup)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)

        def enter():
            write_file(f"{self.cgroup}/cgroup.procs", "0")
            resource.setrlimit(resource.RLIMIT_NOFILE, (20000, max(limits)))

        self.child = subprocess.Popen(
            self.hello["argv"], cwd=cwd, env=self.hello["env"], start_new_session=True, preexec_fn=enter,
            stdin=subprocess.PIPE if self.hello["stdin"] else subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        self.ended = os.pidfd_open(self.child.pid)
        self.pipes = {self.child.stdout.fileno(): wire.STDOUT, self.child.stderr.fileno(): wire.STDERR}
        self.stdin = self.child.stdin.fileno() if self.child.stdin else None
        for fd in [*self.pipes, self.connection.fileno()] + ([self.stdin] if self.stdin else []):
            os.set_blocking(fd, False)

    def run(self):
        self.obey_all()
        while not (self.exited_at is not None and not self.pipes):
            ready = self.wait()
            if self.ended in ready:
                self.child.wait()
                self.exited_at = time.monotonic()
                self.status = self.child.returncode
                os.close(self.ended)
                self.ended = None
            for fd in [fd for fd in self.pipes if fd in ready]:
                self.take_output(fd)
            if self.connection.fileno() in ready:
                self.talk(ready[self.connection.fileno()])
            if self.stdin in ready:
                self.give_input()
            self.check_time(ready)
        self.finish()

    def wait(self):
        poll = select.poll()
        events = select.POLLIN | (select.POLLOUT if self.output else 0)
        poll.register(self.connection.fileno(), events)
        if self.ended is not None:
            poll.register(self.ended, select.POLLIN)
        backlog = len(self.output) >= MAX_BACKLOG
        for fd in self.pipes if not backlog else []:
            poll.register(fd, select.POLLIN)
        if self.stdin is not None and self.input:
            poll.register(self.stdin, select.POLLOUT)
        due = [self.kill_at] if self.kill_at else []
        if self.exited_at is not None and not backlog:
            due.append(self.exited_at + LAST_OUTPUT_S)
        timeout = max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None
        ready = dict(poll.poll(timeout))
        if self.exited_at is not None and backlog:
            self.exited_at = time.monotonic()  # the pipes were not looked at
        return ready

    def take_output(self, fd):
        data = os.read(fd, wire.CHUNK)
        if data:
            self.output += wire.frame(self.pipes[fd], data)
            if self.exited_at is not None:
                self.exited_at = time.monotonic()
        else:
            self.close_pipe(fd)

    def close_pipe(self, fd):
        (self.child.stdout if self.pipes.pop(fd) == wire.STDOUT else self.child.stderr).close()

    def talk(self, events):
        if events & select.POLLOUT:
            del self.output[:self.connection.send(self.output)]
        if not events & ~select.POLLOUT:
            return
        data = self.connection.recv(wire.CHUNK)
        if not data:
            raise ConnectionResetError("the client is gone")
        self.reader.feed(data)
        self.obey_all()

    def obey_all(self):
        for kind, payload in self.reader.frames():
            self.obey(kind, payload)

    def obey(self, kind, payload):
        if kind == wire.STDIN:
            if self.stdin is None:
                self.output += wire.json_frame(wire.ACK, len(payload))
            self.input += payload
        elif kind == wire.STDIN_END:
            self.input_ended = True
            self.give_input()
        elif kind == wire.SIGNAL:
            self.signal(json.loads(payload))
        elif kind == wire.KILL:
            self.killed = True
            self.signal(signal.SIGTERM)
            self.kill_at = time.monotonic() + KILL_GRACE_S
        else:
            raise ValueError(f"unknown frame {kind!r}")

    def signal(self, number):
        try:
            os.killpg(self.child.pid, number)
        except ProcessLookupError:
            pass

    def give_input(self):
        if self.stdin is None:
            return
        try:
            while self.input:
                taken = os.write(self.stdin, self.input[:wire.CHUNK])
                del self.input[:taken]
                self.output += wire.json_frame(wire.ACK, taken)
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.output += wire.json_frame(wire.ACK, len(self.input))
            self.input_ended = True
        if self.input_ended:
            self.input.clear()
            self.child.stdin.close()
            self.stdin = None

    def check_time(self, ready):
        now = time.monotonic()
        if self.kill_at and now >= self.kill_at:
            self.kill_at = None
            self.kill()
        if self.exited_at is not None and now >= self.exited_at + LAST_OUTPUT_S:
            for fd in [fd for fd in self.pipes if fd not in ready]:
                self.close_pipe(fd)

    def kill(self):
        try:
            write_file(f"{self.cgroup}/cgroup.kill", "1")
        except FileNotFoundError:
            pass

    def finish(self):
        if self.killed:
            self.kill()  # what the command put into the background
        code = self.status
        result = {"code": code} if code >= 0 else {"signal": -code}
        self.connection.setblocking(True)
        self.connection.sendall(self.output + wire.json_frame(wire.EXIT, result))


def execute(connection, hello, reader):
    see_fresh_files()
    command = Command(connection, hello, reader)
    try:
        command.start()
    except (OSError, subprocess.SubprocessError) as error:
        number = getattr(error, "errno", None)
        bad_cwd = not os.path.isdir(hello["cwd"])
        code = 125 if bad_cwd else {errno.ENOENT: 127, errno.EACCES: 126, errno.ENOEXEC: 126}.get(number, 125)
        message = error.strerror if bad_cwd else f"{hello['argv'][0]}: {getattr(error, 'strerror', None) or error}"
        connection.sendall(wire.json_frame(wire.EXIT, {"code": code, "error": message}))
        return
    try:
        command.run()
    except (OSError, ValueError) as error:
        console(f"command {hello['argv'][0]}: {error}: killed")
        command.kill()


def stop(config):
    """Ends the bed in order: every process, then the home disk, then the machine."""
    for number, pause in ((signal.SIGTERM, 0.3), (signal.SIGKILL, 0.1)):
        try:
            os.kill(-1, number)
        except ProcessLookupError:
            break
        time.sleep(pause)
    os.sync()
    for path in (f"{config['home']}/run", f"{config['home']}/images", config["home"]):
        if libc.umount2(path.encode(), 0) != 0:
            console(f"umount {path}: {os.strerror(ctypes.get_errno())}")
    os.sync()
    console("stopped")
    libc.reboot(0x4321FEDC)  # RB_POWER_OFF


def read_hello(connection):
    reader = wire.Reader()
    while True:
        data = connection.recv(wire.CHUNK)
        if not data:
            return None, reader
        reader.feed(data)
        for kind, payload in reader.frames():
            if kind != wire.HELLO:
                raise ValueError(f"frame {kind!r} before the hello")
            return json.loads(payload), reader


def serve(connection, config):
    connection.settimeout(30)
    hello, reader = read_hello(connection)
    if hello is None:
        return
    if not hmac.compare_digest(hello.get("token", ""), config["token"]):
        console("a client with a wrong token was refused")
        return
    if hello["op"] == "stop":
        stop(config)
    elif hello["op"] == "exec":
        execute(connection, hello, reader)
    else:
        connection.sendall(wire.json_frame(wire.EXIT, {"code": 0}))


def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        config = json.load(file)
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 1048576))
    os.makedirs(CGROUPS, exist_ok=True)
    write_file(f"{CGROUPS}/cgroup.subtree_control", "+cpuset +cpu +io +memory +pids")
    listener = listen(config["guest_port"])
    write_file("/proc/sys/vm/drop_caches", "4\n")  # 4: do not log it every time
    signal.signal(signal.SIGCHLD, reap)
    if config["file_limit"] < 1000000 and os.fork() == 0:
        guard_file_limit(config["file_limit"])
    console("ready")
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            try:
                serve(connection, config)
            except (OSError, ValueError, KeyError) as error:
                console(f"connection: {error}")
            finally:
                os._exit(0)
        connection.close()
        remove_empty_cgroups()


main()
