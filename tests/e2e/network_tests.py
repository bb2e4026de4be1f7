"""Networks of sandboxes with Linux guests: a card that a clone finds configured, and what its programs reach."""

import os
import subprocess

from host import Skipped, check, check_equal, wait_until
from hostile_tests import Attacker

NAMESPACE = 'spore-e2e-world'
PUBLIC, PRIVATE, NAMESERVER = '203.0.113.10', '10.7.0.1', '203.0.113.53'
SERVER = '''
import http.server, socket, threading
def names():  # any name is 203.0.113.10, for a minute
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("203.0.113.53", 53))
        while True:
            query, client = server.recvfrom(512)
            answer = query[:2] + bytes.fromhex("8180000100010000 0000") + query[12:]
            server.sendto(answer + bytes.fromhex("c00c00010001 0000003c 0004 cb00710a"), client)
threading.Thread(target=names, daemon=True).start()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(("hello " + self.client_address[0]).encode())
http.server.HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
'''


def ip(*words):
    subprocess.run(['ip', *words], check=True, capture_output=True)


class Internet:
    """A namespace that is the rest of the world, with a server; the host has a way there."""

    def __enter__(self):
        subprocess.run(['ip', 'netns', 'del', NAMESPACE], check=False, capture_output=True)
        ip('netns', 'add', NAMESPACE)
        ip('link', 'add', 'e2e-out', 'type', 'veth', 'peer', 'name', 'in', 'netns', NAMESPACE)
        ip('address', 'add', '192.0.2.1/24', 'dev', 'e2e-out')
        ip('link', 'set', 'e2e-out', 'up')
        inside = ('-n', NAMESPACE)
        ip(*inside, 'link', 'set', 'lo', 'up')
        ip(*inside, 'address', 'add', '192.0.2.2/24', 'dev', 'in')
        for address in (PUBLIC, PRIVATE, NAMESERVER):
            ip(*inside, 'address', 'add', f'{address}/32', 'dev', 'lo')
        ip(*inside, 'link', 'set', 'in', 'up')
        for address in (PUBLIC, PRIVATE, NAMESERVER):
            ip('route', 'add', f'{address}/32', 'via', '192.0.2.2')
        with open('/proc/sys/net/ipv4/ip_forward', 'w', encoding='ascii') as file:
            file.write('1')
        self.server = subprocess.Popen(['ip', 'netns', 'exec', NAMESPACE, 'python3', '-c', SERVER],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: b'hello' in subprocess.run(
            ['curl', '-s', '-m', '5', f'http://{PUBLIC}:8080'], check=False, capture_output=True).stdout,
            'the server', 300)
        return self

    def __exit__(self, *_):
        self.server.kill()
        self.server.wait()
        subprocess.run(['ip', 'netns', 'del', NAMESPACE], check=False)
        subprocess.run(['ip', 'link', 'del', 'e2e-out'], check=False, capture_output=True)


FETCH = ('import sys, urllib.request\n'
         'for url in sys.argv[1:]:\n'
         '    try:\n'
         '        print(urllib.request.urlopen(url, timeout=5).read().decode())\n'
         '    except OSError as error:\n'
         '        print("no:", error)\n')


def fetch(host, name, *addresses):
    """What the guest gets from each; a line an address."""
    return host.exec(name, 'python3', '-c', FETCH,
                     *[f'http://{address}:8080' for address in addresses]).splitlines()


def attack_card(host, name):
    """By root in the sandbox, whose card it is no more afterwards (hostile_tests.py)."""
    attacker = Attacker(host, name)
    attacker.take_from_driver('virtio_net')
    attacker.attack_alone('net', lambda: check(attacker.is_well(), 'the VM has ended'))


def of_a_linux_guest(host):
    if os.geteuid() != 0:
        raise Skipped('needs root, for namespaces')
    with Internet():
        host.run('template', 'create', 'with-card', '--image', host.image, '--kernel', host.fast_kernel,
                 '--memory', '256M', '--disk', '2G', '--network', 'egress', '--dns', NAMESERVER,
                 '--prepare', f'curl -s -m 20 http://{PUBLIC}:8080 > /fetched', limit_s=900)
        made = host.json('create', 'net', '--template', 'with-card', '--network', 'egress', '--dns', NAMESERVER)
        try:
            check_equal(made['network']['mode'], 'egress', 'network')
            check_equal(host.exec('net', 'cat /fetched'), 'hello 192.0.2.1', 'what a command of --prepare got')
            got = fetch(host, 'net', PUBLIC, PRIVATE, '192.0.2.1', '198.18.0.1')
            check_equal(got[0], 'hello 192.0.2.1', PUBLIC)
            check(all(line.startswith('no:') for line in got[1:]) and len(got) == 4, got)
            check_equal(host.exec('net', 'cat /etc/resolv.conf'), 'nameserver 198.18.0.1', 'resolv.conf')
            host.run('update', 'net', '--network', 'egress', '--allow', f'{PRIVATE}:8080')
            got = fetch(host, 'net', PUBLIC, PRIVATE)
            check(got[0].startswith('no:') and got[1] == 'hello 192.0.2.1', got)
            host.run('update', 'net', '--network', 'egress', '--allow', '*.example:8080', '--dns', NAMESERVER)
            got = fetch(host, 'net', PUBLIC, 'other.org', 'web.example', PUBLIC)
            check([line.startswith('no:') for line in got] == [True, True, False, False], got)
            told = host.json('update', 'net', '--network', 'none')['network']
            check(not told['open'] and told['intact'], told)
            check(fetch(host, 'net', PRIVATE)[0].startswith('no:'), 'network none')
            attack_card(host, 'net')
        finally:
            host.run('destroy', 'net')
            host.run('template', 'remove', 'with-card')
        wait_until(lambda: not [name for name in os.listdir('/sys/class/net') if name.startswith('spore-')],
                   'the links to be gone')


TESTS = [('sandbox-network', of_a_linux_guest)]
