"""Snapshots in the midst of I/O: the machine goes on rightly, and every clone ends what was under way."""

import array
import hashlib
import os
import random
import shutil
import socket
import struct
import threading
import time

from agent import Agent, attach_vsock, connect_vsock_port
from device_tests import GUEST_STREAM, accept, bring_up, send
from host import Failed, check, check_equal, wait_until
from rig import HOST_ADDRESS, MIB, RigClone, busy_rig
from snapshot_tests import decode

LIMIT_S = 600
SNAPSHOTS = 2
STOP = '/var/flight-stop'  # in the guest: the writers end their round, and no other begins
THREADS, SLOTS, BLOCK = 4, 8, 1 << 18
ROUNDS = 15

# Writes, flushes, discards and reads back on the raw disk, from several threads, past any cache: one
# round after another, all alike.
CHURN = f'''
import fcntl, hashlib, mmap, os, struct, sys, threading
THREADS, SLOTS, BLOCK = {THREADS}, {SLOTS}, {BLOCK}
BLKDISCARD = 0x1277
disk = os.open("/dev/vdb", os.O_RDWR | os.O_DIRECT)
bad = []
def expect(buffer, place, wanted, what):
    os.preadv(disk, [buffer], place)
    if buffer[:] != wanted:
        bad.append(what)
def churn(thread, count):
    buffer = mmap.mmap(-1, BLOCK)
    churn_round(thread, count, buffer)
    while not os.path.exists("{STOP}"):
        churn_round(thread, count, buffer)
def churn_round(thread, count, buffer):
    for number in range(count):
        place = (thread * SLOTS + number % SLOTS) * BLOCK
        content = hashlib.sha256(b"%d %d" % (thread, number)).digest() * (BLOCK // 32)
        buffer[:] = content
        os.pwrite(disk, buffer, place)
        if number % 3 == 1:
            os.fdatasync(disk)
        expect(buffer, place, content, f"thread {{thread}} write {{number}}")
        if number % 5 == 4:
            fcntl.ioctl(disk, BLKDISCARD, struct.pack("QQ", place, BLOCK))
            expect(buffer, place, bytes(BLOCK), f"thread {{thread}} discard {{number}}")
threads = [threading.Thread(target=churn, args=(thread, int(sys.argv[1]))) for thread in range(THREADS)]
for thread in threads:
    thread.start()
open("/var/churn-begun", "w").close()
for thread in threads:
    thread.join()
print(*bad or ["right"], sep="; ")
'''


def churned():
    """What the raw disk begins with when CHURN has run."""
    content = bytearray(THREADS * SLOTS * BLOCK)
    for thread in range(THREADS):
        for number in range(ROUNDS):
            place = (thread * SLOTS + number % SLOTS) * BLOCK
            digest = hashlib.sha256(b'%d %d' % (thread, number)).digest()
            content[place:place + BLOCK] = bytes(BLOCK) if number % 5 == 4 else digest * (BLOCK // 32)
    return bytes(content)


def dice():
    seed = random.randrange(1 << 32)
    print(f'     seed {seed}', flush=True)
    return random.Random(seed)


def outstanding(host, saved):
    """Requests that the guest had given its disks and not taken back at the snapshot, as far as its
    rings tell: what the driver has seen is in used_event (virtio 1.2 §2.7.7), but for 0, which Linux
    also writes to have no interrupts for now."""
    state = decode(saved, os.path.join(host.directory('state'), 'd'))
    queues = [queue for device in state['devices'] if 'layered' in device['kind']
              for queue in device['transport']['queues'] if queue['ready']]
    found = 0
    with open(os.path.join(saved, 'memory.img'), 'rb') as memory:
        for queue in queues:
            memory.seek(queue['available_ring'] + 2)
            available = struct.unpack('<H', memory.read(2))[0]
            memory.seek(queue['available_ring'] + 4 + 2 * queue['size'])
            seen = struct.unpack('<H', memory.read(2))[0]
            found += available - queue['next_available'] & 0xffff
            if seen != 0 and (queue['next_used'] - seen & 0xffff) <= queue['size']:
                found += queue['next_used'] - seen & 0xffff
    return found


def snapshots_in_flight(host, machine, host_port):
    """Snapshots that have requests in flight: of those that were tried, as most requests are over at once.
    The writers go on until there are enough, however fast they are."""
    chance, saved, found = dice(), [], []
    deadline = time.monotonic() + LIMIT_S
    while len(saved) < SNAPSHOTS and time.monotonic() < deadline:
        time.sleep(chance.uniform(0, 1))
        directory = machine.snapshot(f'in-flight-{len(found)}', (host_port, 1024))
        found.append(outstanding(host, directory))
        if found[-1]:
            saved.append(directory)
        else:
            shutil.rmtree(directory)
    print(f'     requests in flight: {found}', flush=True)
    check(len(saved) == SNAPSHOTS, f'{len(saved)} of {len(found)} snapshots had requests in flight')
    return saved


def block(host):
    machine = busy_rig(host)
    known = machine.vm.new_agent()
    other = machine.vm.new_agent()
    other.run(f"mkdir -p /root/flight; cat > /root/churn.py <<'END'\n{CHURN}\nEND")
    fio = ('fio --name=verify --directory=/root/flight --ioengine=libaio --direct=1 --rw=randrw '
           '--verify=crc32c --verify_fatal=1 --do_verify=1 --iodepth=16 --bsrange=4k-64k --numjobs=2 '
           '--size=4M --fsync=32 --group_reporting --output-format=json --output=/root/fio.json')
    writes = f'while {fio}; do [ ! -e {STOP} ] || exit 0; done; exit 1'
    stream = known.start(f'({writes}) & python3 /root/churn.py {ROUNDS} > /root/churn; churn=$?; wait $!; '
                         'echo fio $? churn $churn $(cat /root/churn)', limit_s=LIMIT_S)
    wait_until(lambda: other.run('test', '-e', '/var/churn-begun', check=False).status == 0, 'the writers')
    saved = snapshots_in_flight(host, machine, known.host_port)
    other.run('touch', STOP)
    finish(known, stream, machine, 'the machine itself')
    for number, directory in enumerate(saved):
        with RigClone(machine, directory) as clone:
            wait_until(lambda: os.path.exists(clone.vm.vsock_path), 'the vsock socket')
            clone.vm.agent = Agent.attach(clone.vm.vsock_path, known.streams, 60)
            clone.vm.new_agent().run('touch', STOP)
            finish(clone.vm.agent, stream, clone, f'clone {number}')


def finish(agent, stream, machine, who):
    result = agent.collect(stream, LIMIT_S)
    check_equal((result.status, result.text.split('\n')[-2:]), (0, ['fio 0 churn 0 right', '']), who)
    agent.run('rm', STOP)
    agent.run('blockdev', '--flushbufs', '/dev/vdb')
    with open(machine.scratch, 'rb') as file:
        check(file.read(THREADS * SLOTS * BLOCK) == churned(), f'{who}: the raw disk has other content')
    agent.run('sync; echo 3 > /proc/sys/vm/drop_caches; cat /root/flight/* > /dev/null')
    bad = [line for line in agent.run('dmesg').text.splitlines()
           if any(word in line for word in ('I/O error', 'EXT4-fs error', 'Call Trace', 'BUG', 'blocked for'))]
    check_equal(bad, [], f'{who}: kernel messages')


class Receiver(threading.Thread):
    """Takes what a guest's program sends to a connection, told apart by a SHA-256."""

    def __init__(self, connection, to_guest, from_guest):
        super().__init__(daemon=True)
        self.connection, self.to_guest, self.from_guest = connection, to_guest, from_guest
        self.got, self.told, self.error = 0, [], None
        self.start()

    def run(self):
        try:
            with self.connection:
                self.connection.settimeout(LIMIT_S)
                sent = send(self.connection, self.to_guest)
                digest = hashlib.sha256()
                while self.got < self.from_guest * MIB:
                    data = self.connection.recv(1 << 16)
                    check(data, 'the guest closed the connection early')
                    digest.update(data)
                    self.got += len(data)
                self.told = [['received', sent, '0'], ['sent', digest.hexdigest()]]
        except Exception as error:  # told by whoever waits for the end
            self.error = error

    def wait(self):
        self.join(LIMIT_S)
        check(self.error is None, f'the host\'s end: {self.error}')
        check(self.told, f'the transfer did not end in {LIMIT_S} s; {self.got} bytes came')
        return self.told


def stream_in_guest(agent, listener, to_guest, from_guest, log):
    """Begins GUEST_STREAM in the background, so that it outlives its agent connection."""
    agent.run(f"cat > /root/stream.py <<'END'\n{GUEST_STREAM}\nEND\n"
              f'setsid python3 -u /root/stream.py inet {HOST_ADDRESS} {listener.getsockname()[1]} 0 {to_guest} '
              f'{from_guest} > {log} 2>&1 < /dev/null &')


def words(agent, log):
    return [line.split() for line in agent.run('cat', log).text.splitlines()]


def network(host):
    machine, chance = busy_rig(host), dice()
    bring_up(machine)
    listener = machine.call_inside(lambda: socket.create_server((HOST_ADDRESS, 0)))
    stream_in_guest(machine.agent, listener, 12, 24, '/root/net-log')
    transfer = Receiver(accept(listener), 12, 24)
    time.sleep(chance.uniform(0, 0.5))
    machine.snapshot('net-receiving', (0, 0))
    wait_until(lambda: transfer.got > MIB or not transfer.is_alive(), 'the guest to send', LIMIT_S)
    saved = machine.snapshot('net-sending', (0, 0))
    check(transfer.is_alive(), 'the transfer was over before the snapshot')
    check_equal(transfer.wait(), words(machine.agent, '/root/net-log'), 'checksums of the machine itself')
    with RigClone(machine, saved) as clone:
        clone.agent = clone.vm.wait_for_agent()
        # Nobody knows the connection there: the host's answer to what the guest sends again is RST.
        wait_until(lambda: 'Error:' in clone.agent.run('cat', '/root/net-log').text, 'the end of the old transfer')
        check('ConnectionResetError' in (text := clone.agent.run('cat', '/root/net-log').text), text)
        listener = clone.call_inside(lambda: socket.create_server((HOST_ADDRESS, 0)))
        stream_in_guest(clone.agent, listener, 4, 4, '/root/net-log2')
        transfer = Receiver(accept(listener), 4, 4)
        told = transfer.wait()
        wait_until(lambda: len(words(clone.agent, '/root/net-log2')) == 2, 'the guest\'s end')
        check_equal(words(clone.agent, '/root/net-log2'), told, 'checksums of a new transfer in the clone')


NUMBERS = 1 << 20  # of 4 bytes each, both ways: many times what goes until the snapshot

# Sends numbers to the host and takes numbers from it, all of them in turn; who connects to the next
# port is told how many bytes have come, when none has come for a while.
DUPLEX = f'''
import array, os, select, socket, threading, time
def say(*words):  # in one piece: print() writes the end of a line by itself, after another thread's
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def listen(port):
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen(8)
    return listener
main, side, got, busy = listen(7001), listen(7002), 0, threading.Lock()
say("listens")
connection = main.accept()[0]
def answer():
    while True:
        with side.accept()[0] as asker:
            while select.select([connection], [], [], 2)[0]:
                time.sleep(0.1)
            with busy:
                asker.sendall(b"%d\\n" % got)
def send():
    for number in range(0, {NUMBERS}, 4096):
        connection.sendall(array.array("I", range(number, number + 4096)).tobytes())
    say("sent")
def take():
    global got
    while got < 4 * {NUMBERS}:
        select.select([connection], [], [])
        with busy:
            data = connection.recv(65536)
            first = got // 4
            wanted = array.array("I", range(first, first + len(data) // 4 + 2)).tobytes()[got % 4:][:len(data)]
            if not data or data != wanted:
                say("wrong" if data else "ended", "at", got)
                return
            got += len(data)
    say("took")
for target in (answer, send, take):
    threading.Thread(target=target).start()
'''
ALL_NUMBERS = array.array('I', range(NUMBERS)).tobytes()


class Duplex:
    """The host's end of DUPLEX: what has come, and sending from a place on."""

    def __init__(self, connection, begin):
        self.connection, self.got = connection, bytearray()
        connection.settimeout(LIMIT_S)
        self.threads = [threading.Thread(target=work, daemon=True)
                        for work in (lambda: self.send(begin), self.take)]
        for thread in self.threads:
            thread.start()

    def send(self, begin):
        for place in range(begin, len(ALL_NUMBERS), 8192):
            self.connection.sendall(ALL_NUMBERS[place:place + 8192])

    def take(self):
        # The guest's last bytes are known: it does not hang up.
        while not self.got.endswith(ALL_NUMBERS[-64:]):
            data = self.connection.recv(1 << 16)
            if not data:
                return
            self.got += data

    def wait(self):
        for thread in self.threads:
            thread.join(LIMIT_S)
            check(not thread.is_alive(), f'the stream does not end; {len(self.got)} bytes came')
        self.connection.close()


def taken_by_guest(path):
    """How many bytes have come to DUPLEX, now that none comes any more."""
    with connect_vsock_port(path, 7002, LIMIT_S)[0] as connection:
        return int(connection.makefile().readline())


def snapshot_of_stream(machine, ports, limit_s=60):
    """While bytes flow; those that find some on their way to the host program are refused and tried again."""
    deadline, refused = time.monotonic() + limit_s, 0
    while True:
        try:
            return machine.snapshot('stream', ports), refused
        except Failed as error:
            check('bytes on their way' in str(error), str(error))
            refused += 1
            check(time.monotonic() < deadline, f'{refused} snapshots were refused: {error}')


def vsock(host):
    machine = busy_rig(host)
    agent = machine.vm.new_agent()
    agent.run(f"cat > /root/duplex.py <<'END'\n{DUPLEX}\nEND\n"
              'setsid python3 -u /root/duplex.py > /root/duplex-log 2>&1 < /dev/null &')
    wait_until(lambda: 'listens' in agent.run('cat', '/root/duplex-log').text, 'the listener in the guest')
    connection, host_port = connect_vsock_port(machine.vm.vsock_path, 7001, LIMIT_S)
    stream = Duplex(connection, 0)
    wait_until(lambda: len(stream.got) > 1 << 17, 'the stream to flow')
    before = len(stream.got)
    saved, refused = snapshot_of_stream(machine, (host_port, 7001))
    after = len(stream.got)
    check(after < len(ALL_NUMBERS), 'the stream was over before the snapshot')
    stream.wait()
    check(bytes(stream.got) == ALL_NUMBERS, f'{len(stream.got)} bytes from the guest, or others')
    wait_until(lambda: 'took' in agent.run('cat', '/root/duplex-log').text, 'the guest to have all', LIMIT_S)
    with RigClone(machine, saved) as clone:
        wait_until(lambda: os.path.exists(clone.vm.vsock_path), 'the vsock socket')
        place = taken_by_guest(clone.vm.vsock_path)
        stream = Duplex(attach_vsock(clone.vm.vsock_path, 7001, LIMIT_S), place)
        stream.wait()
        # Goes on behind the last byte that the machine's own host program was given.
        left = len(stream.got)
        check(ALL_NUMBERS.endswith(bytes(stream.got)), f'{left} bytes from the clone, or others')
        check(before <= len(ALL_NUMBERS) - left <= after,
              f'{len(ALL_NUMBERS) - left} bytes were given before the snapshot, between {before} and {after} seen')
        clone.agent = clone.vm.wait_for_agent()
        wait_until(lambda: len(clone.agent.run('cat', '/root/duplex-log').text.split()) >= 3,
                   'the clone to have all', LIMIT_S)
        check_equal(sorted(clone.agent.run('cat', '/root/duplex-log').text.split()), ['listens', 'sent', 'took'],
                    'what the clone\'s program says')
    print(f'     {place} bytes to the guest and {len(ALL_NUMBERS) - left} from it before the snapshot; '
          f'{refused} refused', flush=True)


TESTS = [
    ('flight-block', block),
    ('flight-network', network),
    ('flight-vsock', vsock),
]
