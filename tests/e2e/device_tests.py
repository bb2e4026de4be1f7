"""Disks, network and vsock under load, every byte checked at both ends."""

import hashlib
import json
import os
import select
import socket
import struct
import subprocess
import threading

from agent import connect_vsock
from host import check, check_equal
from rig import GUEST_ADDRESS, HOST_ADDRESS, MIB, rig

LIMIT_S = 300
CONNECTIONS = 50

# Runs in the guest: one stream, `received` MiB in, then `sent` MiB out, told apart by their SHA-256.
# Every MiB begins with its number, so that none can stand for another.
GUEST_STREAM = '''
import hashlib, os, socket, struct, sys
family, address, port, listen, received, sent = sys.argv[1:]
vsock = family == "vsock"
end = socket.socket(socket.AF_VSOCK if vsock else socket.AF_INET)
target = (int(address) if vsock else address, int(port))
if listen == "1":
    end.bind(target)
    end.listen(1)
    print("listening", flush=True)
    end = end.accept()[0]
else:
    end.connect(target)
digest, left = hashlib.sha256(), int(received) << 20
while left:
    data = end.recv(min(left, 1 << 18))
    if not data:
        break
    digest.update(data)
    left -= len(data)
print("received", digest.hexdigest(), left, flush=True)
block, digest = os.urandom((1 << 20) - 8), hashlib.sha256()
for number in range(int(sent)):
    data = struct.pack("<Q", number) + block
    digest.update(data)
    end.sendall(data)
end.shutdown(socket.SHUT_WR)
end.recv(1)
print("sent", digest.hexdigest())
'''
GUEST_ECHO = '''
import socket, sys, threading
end = socket.socket(socket.AF_VSOCK)
end.bind((socket.VMADDR_CID_ANY, int(sys.argv[1])))
end.listen(128)
def serve(connection):
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
threads = []
for _ in range(int(sys.argv[2])):
    threads.append(threading.Thread(target=serve, args=(end.accept()[0],)))
    threads[-1].start()
for thread in threads:
    thread.join()
print("served", len(threads))
'''


class InGuest(threading.Thread):
    """A command in the guest, over a connection of its own, while the test goes on here."""

    def __init__(self, machine, *argv):
        super().__init__(daemon=True)
        self.agent = machine.vm.new_agent()
        self.argv = argv
        self.result = None
        self.error = None
        self.start()

    def run(self):
        try:
            self.result = self.agent.run(*self.argv, limit_s=LIMIT_S)
        except Exception as error:  # told by whoever asks for the result
            self.error = error
        finally:
            self.agent.close()

    def lines(self):
        self.join(LIMIT_S)
        check(self.error is None, f'in the guest: {self.error}')
        check(self.result is not None, f'the guest did not end in {LIMIT_S} s')
        return [line.split() for line in self.result.text.splitlines()]


def fio(machine, *options):
    """fio with verification; asserts that all was written, read back and found right."""
    done = machine.agent.run(
        'fio', '--name=verify', '--ioengine=libaio', '--direct=1', '--rw=randrw', '--verify=crc32c',
        '--verify_fatal=1', '--do_verify=1', '--iodepth=16', '--bsrange=4k-64k', '--numjobs=3',
        '--size=16M', '--group_reporting', '--output-format=json', *options, limit_s=LIMIT_S)
    job = json.loads(done.text[done.text.index('{'):])['jobs'][0]
    check_equal(job['error'], 0, 'fio error')
    written, read = job['write']['io_bytes'], job['read']['io_bytes']
    # Half of 3 times 16 MiB is written, about; what is read is the other half and all written again.
    check(written > 12 * MIB, f'fio wrote {written} bytes')
    check(read > written, f'fio wrote {written} bytes and read {read}')


def block_raw(host):
    machine = rig(host)
    fio(machine, '--filename=/dev/vdb', '--offset_increment=16M')
    # What the guest has written is in the file.
    machine.agent.run('dd if=/dev/urandom of=/dev/vdb bs=1M count=4 seek=100 oflag=direct')
    seen = machine.agent.run('dd if=/dev/vdb bs=1M count=4 skip=100 iflag=direct | sha256sum').text.split()[0]
    machine.agent.run('blockdev', '--flushbufs', '/dev/vdb')
    with open(machine.scratch, 'rb') as file:
        file.seek(100 * MIB)
        check_equal(hashlib.sha256(file.read(4 * MIB)).hexdigest(), seen, 'SHA-256 of the disk file')


def block_layered(host):
    machine = rig(host)
    machine.agent.run('mkdir -p /root/fio && cd /root/fio')
    fio(machine, '--directory=/root/fio')
    machine.agent.run('rm -r /root/fio')


def block_cache(host):
    machine = rig(host)
    script = ('set -e; seq 1 9000000 | head -c 67108864 > /root/big; sha256sum < /root/big; '
              'sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum < /root/big; wc -c < /root/big; '
              'rm /root/big')
    before, after, size = machine.agent.run(script, limit_s=LIMIT_S).text.splitlines()
    check_equal(int(size), 64 * MIB, 'bytes in the file')
    check_equal(after, before, 'SHA-256 when read from the disk')


def allocated(path):
    return os.stat(path).st_blocks * 512


def block_discard(host):
    machine = rig(host)
    machine.agent.run('dd if=/dev/zero of=/root/trim bs=1M count=48 2>/dev/null; '
                      'tr "\\0" x < /root/trim > /root/trim2; rm /root/trim; sync')
    full = allocated(machine.top)
    machine.agent.run('rm /root/trim2; sync; fstrim /', limit_s=LIMIT_S)
    trimmed = allocated(machine.top)
    check(full - trimmed >= 40 * MIB, f'fstrim: the layer went from {full} to {trimmed} bytes')
    machine.agent.run('dd if=/dev/urandom of=/dev/vdb bs=1M count=16 seek=200 oflag=direct')
    full = allocated(machine.scratch)
    machine.agent.run('blkdiscard', '-o', str(200 * MIB), '-l', str(16 * MIB), '/dev/vdb')
    trimmed = allocated(machine.scratch)
    check(full - trimmed >= 15 * MIB, f'blkdiscard: the disk went from {full} to {trimmed} bytes')
    seen = machine.agent.run('dd if=/dev/vdb bs=1M count=16 skip=200 iflag=direct | sha256sum').text.split()[0]
    check_equal(seen, hashlib.sha256(bytes(16 * MIB)).hexdigest(), 'SHA-256 of what was discarded')


def block_read_only(host):
    machine = rig(host)
    check_equal(machine.agent.run('cat', '/sys/block/vdc/ro').text.strip(), '1', '/sys/block/vdc/ro')
    done = machine.agent.run('dd if=/dev/zero of=/dev/vdc bs=4k count=1 oflag=direct', check=False)
    check(done.status != 0, 'a read-only disk took a write')
    with open(machine.read_only, 'rb') as file:
        wanted = hashlib.sha256(file.read()).hexdigest()
    check_equal(machine.agent.run('sha256sum', '/dev/vdc').text.split()[0], wanted, 'its SHA-256')


def bring_up(machine):
    machine.agent.run(f'ip address replace {GUEST_ADDRESS}/24 dev eth0 && ip link set eth0 up')


def network_ping(host):
    machine = rig(host)
    bring_up(machine)
    machine.agent.run('ping', '-c', '3', '-i', '0.2', '-W', '20', HOST_ADDRESS)
    machine.agent.run('ping', '-c', '3', '-i', '0.2', '-W', '20', '-s', '8000', HOST_ADDRESS)
    done = subprocess.run([*machine.inside(), 'ping', '-c', '1', '-W', '20', GUEST_ADDRESS],
                          capture_output=True, check=False) if os.path.exists('/bin/ping') else None
    check(done is None or done.returncode == 0, f'ping of the guest: {done}')


def network_iperf(host):
    machine = rig(host)
    bring_up(machine)
    for direction in ((), ('-R',)):
        with subprocess.Popen([*machine.inside(), 'iperf3', '-s', '-1', '--forceflush'],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
            try:
                while b'listening' not in (line := server.stdout.readline()):
                    check(line, 'iperf3 -s ended')
                # So many bytes, not so many seconds: how fast they go is a matter of what else the host does. What is
                # on its way when the sender has sent its last is not counted.
                done = machine.agent.run('iperf3', '-c', HOST_ADDRESS, '-n', '8M', '-J', *direction, limit_s=LIMIT_S)
                report = json.loads(done.text)
                received = report['end']['sum_received']['bytes']
                check(received > MIB, f'iperf3 {direction}: {received} bytes received')
                server.stdout.read()
                check_equal(server.wait(60), 0, 'status of iperf3 -s')
            finally:
                server.kill()


def receive(connection, size):
    digest, left = hashlib.sha256(), size
    while left:
        data = connection.recv(min(left, 1 << 18))
        if not data:
            break
        digest.update(data)
        left -= len(data)
    return digest.hexdigest(), left


def send(connection, mebibytes):
    block, digest = os.urandom(MIB - 8), hashlib.sha256()
    for number in range(mebibytes):
        data = struct.pack('<Q', number) + block
        digest.update(data)
        connection.sendall(data)
    return digest.hexdigest()


def exchange(connection, guest, mebibytes_to, mebibytes_from):
    """Both ways over one stream, against GUEST_STREAM."""
    with connection:
        connection.settimeout(LIMIT_S)
        to_guest = send(connection, mebibytes_to)
        from_guest, missing = receive(connection, mebibytes_from * MIB)
    told = {line[0]: line[1:] for line in guest.lines()}
    check_equal(missing, 0, 'bytes that did not arrive here')
    check_equal(told['received'], [to_guest, '0'], 'what the guest received')
    check_equal(told['sent'], [from_guest], 'what the guest sent')


def accept(listener):
    listener.settimeout(LIMIT_S)
    with listener:
        return listener.accept()[0]


def network_transfer(host):
    machine = rig(host)
    bring_up(machine)
    listener = machine.call_inside(lambda: socket.create_server((HOST_ADDRESS, 0)))
    guest = InGuest(machine, 'python3', '-c', GUEST_STREAM, 'inet', HOST_ADDRESS,
                    str(listener.getsockname()[1]), '0', '20', '20')
    exchange(accept(listener), guest, 20, 20)


def vsock_from_guest(host):
    machine = rig(host)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(machine.vm.vsock_path + '_5001')
    listener.listen(1)
    guest = InGuest(machine, 'python3', '-c', GUEST_STREAM, 'vsock', '2', '5001', '0', '1', '100')
    exchange(accept(listener), guest, 1, 100)
    refused = machine.agent.run('python3', '-c', 'import socket\n'
                                'try: socket.socket(socket.AF_VSOCK).connect((2, 5999))\n'
                                'except OSError as error: print(error.errno)').text.strip()
    check(refused in ('104', '111'), f'connecting to nobody gave errno {refused!r}')


def connect_when_listening(machine, port):
    """A connection to a program in the guest that is about to listen."""
    for _ in range(600):
        try:
            return connect_vsock(machine.vm.vsock_path, port, LIMIT_S)
        except OSError:
            select.select([], [], [], 0.1)
    raise TimeoutError(f'nobody listens on port {port} of the guest')


def vsock_from_host(host):
    machine = rig(host)
    guest = InGuest(machine, 'python3', '-c', GUEST_STREAM, 'vsock', '4294967295', '5002', '1', '100', '1')
    exchange(connect_when_listening(machine, 5002), guest, 100, 1)


def vsock_many(host):
    machine = rig(host)
    guest = InGuest(machine, 'python3', '-c', GUEST_ECHO, '5003', str(CONNECTIONS))
    connections = []
    try:
        for _ in range(CONNECTIONS):
            connections.append(connect_when_listening(machine, 5003))
        payloads = [os.urandom(32768) for _ in connections]
        for connection, payload in zip(connections, payloads):
            connection.sendall(payload)
        for connection, payload in zip(connections, payloads):
            connection.settimeout(LIMIT_S)
            echo = bytearray()
            while len(echo) < len(payload):
                data = connection.recv(len(payload) - len(echo))
                check(data, 'a connection ended early')
                echo += data
            check(bytes(echo) == payload, 'an echo differs')
    finally:
        for connection in connections:
            connection.close()
    check_equal(guest.lines(), [['served', str(CONNECTIONS)]], 'the guest')


def power_off(host):
    machine = rig(host)
    lines = machine.agent.run('dmesg').text.splitlines()
    bad = [line for line in lines if 'I/O error' in line or 'Call Trace' in line or 'BUG' in line]
    check_equal(bad, [], 'kernel messages after all that')
    machine.agent.power_off()
    check_equal(machine.vm.wait(), 0, f'status; log {machine.vm.log()!r}')


TESTS = [
    ('block-read-only', block_read_only),
    ('block-raw-fio', block_raw),
    ('block-layered-fio', block_layered),
    ('block-cache', block_cache),
    ('block-discard', block_discard),
    ('network-ping', network_ping),
    ('network-iperf3', network_iperf),
    ('network-transfer', network_transfer),
    ('vsock-50-connections', vsock_many),
    ('vsock-100m-from-guest', vsock_from_guest),
    ('vsock-100m-from-host', vsock_from_host),
    ('agent-power-off', power_off),
]
