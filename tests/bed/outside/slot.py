"""A slot: one bed of one tree, its state in <tree>/build/bed/slot-N/.

    lock         held while somebody decides about starting or stopping
    users        held shared by everyone who uses the bed; its time is that of the last use
    keeper.lock  held by the keeper process for its life: the bed is up or coming up
    state.json   what the keeper says: state (booting, ready), pid, port, settings
    end.json     why the last bed ended, and its last console lines
    config.json  what the server inside reads (token, port, paths); only root may read it
    ephemeral    there if the bed goes away with its last user
"""
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time

from outside.message import BedError

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
BOOT_LIMIT_S = 120  # a boot takes 5-7 s on an idle machine
STOP_LIMIT_S = 30
MAX_SLOTS = 8


class Slot:
    def __init__(self, number):
        self.number = number
        self.directory = f"{TREE}/build/bed/slot-{number}"

    def path(self, name):
        return f"{self.directory}/{name}"

    def create(self):
        os.makedirs(self.directory, mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def locked(self, name, how):
        """Holds a lock file; None if LOCK_NB is in how and another has it."""
        fd = os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, how)
            except BlockingIOError:
                yield None
            else:
                yield fd
        finally:
            os.close(fd)

    def exists(self):
        return os.path.isdir(self.directory)

    def is_up(self):
        """Is there a keeper, and so a bed that is up or coming up?"""
        if not self.exists():
            return False
        with self.locked("keeper.lock", fcntl.LOCK_SH | fcntl.LOCK_NB) as fd:
            return fd is None

    def read(self, name):
        try:
            with open(self.path(name), encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return {}

    def write(self, name, value):
        partial = self.path(f"{name}.partial")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
        os.replace(partial, self.path(name))

    def remove(self, name):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(name))

    def touch(self):
        os.utime(self.path("users"))

    def set_ephemeral(self, ephemeral):
        if ephemeral:
            self.write("ephemeral", True)
        else:
            self.remove("ephemeral")

    def boot(self, settings):
        """Starts a keeper and waits until its bed is ready. The caller holds `lock`."""
        self.remove("state.json")
        self.remove("end.json")
        with open(self.path("keeper.log"), "wb") as log:
            keeper = subprocess.Popen(
                [f"{TREE}/tests/bed/outside/keeper", str(self.number), json.dumps(settings)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/")
        deadline = time.monotonic() + BOOT_LIMIT_S
        while time.monotonic() < deadline:
            if self.read("state.json").get("state") == "ready":
                return
            if keeper.poll() is not None:
                raise BedError(f"slot {self.number} did not come up: {self.end_report()}")
            time.sleep(0.1)
        os.kill(keeper.pid, signal.SIGTERM)
        keeper.wait()
        raise BedError(f"slot {self.number} was not up after {BOOT_LIMIT_S} s{self.console_tail()}")

    def stop(self):
        """Stops the bed whoever uses it; waits until it is gone. True if there was one."""
        if not self.is_up():
            return False
        pid = self.read("state.json").get("pid")
        if pid is None:
            raise BedError(f"slot {self.number} is coming up and cannot be stopped yet")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if not self.wait_until_down(STOP_LIMIT_S):
            raise BedError(f"slot {self.number}: keeper {pid} did not stop within {STOP_LIMIT_S} s")
        return True

    def wait_until_down(self, limit_s):
        deadline = time.monotonic() + limit_s
        while self.is_up():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def end_report(self):
        """Why the last bed ended."""
        end = self.read("end.json")
        if end:
            return end["reason"] + ("".join(f"\n    {line}" for line in end["console"]))
        with contextlib.suppress(FileNotFoundError):
            with open(self.path("keeper.log"), encoding="utf-8", errors="replace") as file:
                text = file.read().strip()
            if text:
                return f"its keeper said: {text}"
        return "its keeper was killed"

    def console_tail(self):
        return "".join(f"\n    {line}" for line in last_lines(self.path("console.log")))


def last_lines(path, count=25):
    """The last lines of a console log, without control characters."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16384))
            text = file.read().decode(errors="replace").replace("\r", "")
    except FileNotFoundError:
        return []
    return ["".join(c for c in line if c.isprintable()) for line in text.splitlines()][-count:]
