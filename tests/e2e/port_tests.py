"""Ports of a sandbox that has no network, through vsock: listed, and connected to from the host."""

import base64
import concurrent.futures
import hashlib
import http.client
import json
import os
import socket
import subprocess

from host import check, check_equal, wait_until
from sandbox_tests import Sandbox

AT_ONCE = 50
BIG_BYTES = 16 << 20

# In the guest: HTTP on 8000 (files of /srv), raw TCP on 7000 (what it gets, back, and at its end a count), and on
# 9000 a server that upgrades as WebSockets do and then sends each byte back in upper case.
SERVERS = r'''
import base64, hashlib, http.server, os, socketserver, threading

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        count = 0
        while data := self.request.recv(65536):
            count += len(data)
            self.request.sendall(data)
        self.request.sendall(b'end after %d' % count)

class Upgrade(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        key = self.headers['Sec-WebSocket-Key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
        self.send_response(101)
        self.send_header('Upgrade', 'websocket')
        self.send_header('Connection', 'Upgrade')
        self.send_header('Sec-WebSocket-Accept', base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while data := self.rfile.read1(65536):
            self.wfile.write(data.upper())
            self.wfile.flush()

class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128

os.chdir('/srv')
servers = [Server(('127.0.0.1', 7000), Echo), Server(('0.0.0.0', 9000), Upgrade),
           Server(('127.0.0.1', 8000), http.server.SimpleHTTPRequestHandler)]
for server in servers:
    threading.Thread(target=server.serve_forever).start()
'''


class Forward:
    """`spore port forward` of one port, for a `with`: the port here."""

    def __init__(self, host, name, port):
        self.process = host.start('port', 'forward', '--json', name, f'0:{port}',
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        line = self.process.stdout.readline()
        check(line, f'port forward said nothing: {self.process.poll()}')
        told = json.loads(line)
        check_equal((told['address'], told['port']), ('127.0.0.1', port), 'what forward says')
        self.port = told['listen']

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.errors = self.process.communicate()[1].decode()

    def connect(self):
        return socket.create_connection(('127.0.0.1', self.port), timeout=120)


def receive(connection, size=None):
    data = b''
    while size is None or len(data) < size:
        chunk = connection.recv(65536 if size is None else size - len(data))
        if not chunk:
            break
        data += chunk
    return data


def http_file(forward, digest):
    request = http.client.HTTPConnection('127.0.0.1', forward.port, timeout=120)
    request.request('GET', '/big')
    response = request.getresponse()
    body = response.read()
    check_equal((response.status, len(body)), (200, BIG_BYTES), 'status and length')
    check_equal(hashlib.sha256(body).hexdigest(), digest, 'sha256 of the file')
    request.request('GET', '/absent')
    check_equal(request.getresponse().status, 404, 'status of a file that is not there')


def raw_echo(forward, size):
    data = os.urandom(size)
    with forward.connect() as connection, concurrent.futures.ThreadPoolExecutor(1) as pool:
        def send():
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        sender = pool.submit(send)
        back = receive(connection)
        sender.result()
    tail = b'end after %d' % size
    check(back == data + tail, f'{len(back)} bytes came back of {size + len(tail)}, or others')


def websocket(forward):
    key = base64.b64encode(os.urandom(16)).decode()
    with forward.connect() as connection:
        connection.sendall(f'GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
                           f'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n'.encode())
        head = b''
        while b'\r\n\r\n' not in head:
            head += receive(connection, 1)
        accept = base64.b64encode(hashlib.sha1(
            (key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').encode()).digest())
        check(head.startswith(b'HTTP/1.1 101 ') and accept in head, f'answer to the upgrade: {head!r}')
        for word in (b'first', b'second \xff\x00', b'third'):  # bytes both ways, in turns
            connection.sendall(word)
            check_equal(receive(connection, len(word)), word.upper(), 'what came back')


def refused(host, name):
    error = host.json('port', 'connect', name, '4', status=69)['error']
    check_equal(error['code'], 'unavailable', 'error code')
    check_equal(error['message'], 'port 4: nobody listens there in the guest', 'message')
    error = host.json('port', 'connect', name, '0', status=64)['error']
    check_equal(error['code'], 'invalid_argument', 'error code of port 0')
    with Forward(host, name, 4) as forward, forward.connect() as connection:
        try:
            check_equal(connection.recv(1), b'', 'what came of a port where nobody listens')
        except ConnectionResetError:
            pass
    check('port 4: nobody listens there in the guest' in forward.errors, f'forward said {forward.errors!r}')
    host.json('port', 'list', 'nosuch', status=66)


def many_at_once(forward):
    connections = [forward.connect() for _ in range(AT_ONCE)]
    try:
        for number, connection in enumerate(connections):
            connection.sendall(b'%d' % number)
        for number, connection in enumerate(connections):
            word = b'%d' % number
            check_equal(receive(connection, len(word)), word, f'echo of connection {number}')
            connection.shutdown(socket.SHUT_WR)
        for connection in connections:
            check(receive(connection).startswith(b'end after '), 'the end of an echo')
    finally:
        for connection in connections:
            connection.close()


def ports(host):
    with Sandbox(host, 'ports') as name:
        check_equal(host.exec(name, 'ls -d /sys/class/net/*/device 2>/dev/null; true'), '', 'network cards in the guest')
        digest = host.exec(name, f'mkdir -p /srv && head -c {BIG_BYTES} /dev/urandom > /srv/big && '
                                 'sha256sum < /srv/big').split()[0]
        servers = host.start('exec', name, '--', 'python3', '-c', SERVERS,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: len(host.json('port', 'list', name)) == 3, 'three listeners', 120)
            listed = host.json('port', 'list', name)
            check_equal([(each['port'], each['address'], each['process'], each['uid']) for each in listed],
                        [(7000, '127.0.0.1', 'python3', 0), (8000, '127.0.0.1', 'python3', 0),
                         (9000, '0.0.0.0', 'python3', 0)], 'port list')
            check(len({each['pid'] for each in listed}) == 1 and listed[0]['pid'] > 1, f'PIDs: {listed}')
            with Forward(host, name, 8000) as forward:
                http_file(forward, digest)
            with Forward(host, name, 7000) as forward:
                raw_echo(forward, 4 << 20)
                many_at_once(forward)
            with Forward(host, name, 9000) as forward:
                websocket(forward)
            done = host.run('port', 'connect', name, '7000', stdin=b'by standard input')
            check_equal(done.stdout, b'by standard inputend after 17', 'port connect')
            refused(host, name)
        finally:
            servers.kill()
            servers.wait()


TESTS = [
    ('ports', ports),
]
