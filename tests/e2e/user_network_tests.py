"""A Linux guest whose network goes by passt: sandboxes of a user who may make no links on the host."""

import json
import os
import shutil
import subprocess
import tempfile

from host import Failed, Skipped, check, check_equal, wait_until
from network_tests import FETCH, NAMESERVER, PRIVATE, PUBLIC, Internet
from plain_user import NUMBER, PlainUser

NOT_ENFORCED = {'network_host_rules', 'network_cgroup'}


class User(PlainUser):
    """With a copy of the image."""

    def __init__(self, host):
        super().__init__(host.spore, tempfile.mkdtemp(prefix='spore-e2e-user-'))
        self.host = host
        self.modes = {}
        self.has_route = True

    def __enter__(self):
        try:
            self.prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def prepare(self):
        # Debian's /dev/net/tun is everybody's, and /dev/kvm a group's; in the emulated host both are root's.
        for device in ('/dev/kvm', '/dev/net/tun'):
            self.modes[device] = os.stat(device).st_mode & 0o777
            os.chmod(device, 0o666)
        # Of its host pasta wants to know by which interface everything else is reached.
        self.has_route = bool(subprocess.run(['ip', '-4', 'route', 'show', 'default'], check=True,
                                             capture_output=True).stdout)
        if not self.has_route:
            subprocess.run(['ip', 'route', 'add', 'default', 'via', '192.0.2.2'], check=True)
        images = f'{self.home}/spore/images'
        os.makedirs(images, mode=0o700)
        subprocess.run(['cp', '-a', '--sparse=always', self.host.image_directory, images], check=True)
        self.give_home()

    def __exit__(self, *_):
        for sandbox in self.json('list', status=None) or []:
            self.run('destroy', sandbox['id'], status=None)
        for name in ('sandboxes', 'pools'):
            link = f'{self.home}/spore/{name}'  # its directories for what runs are in memory, beside the home
            if os.path.islink(link):
                shutil.rmtree(os.path.dirname(os.path.realpath(link)), ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)
        for device, mode in self.modes.items():
            os.chmod(device, mode)
        if not self.has_route:
            subprocess.run(['ip', 'route', 'del', 'default', 'via', '192.0.2.2'], check=False, capture_output=True)

    def run(self, *words, status=0, limit_s=300):
        done = self.call(*words, limit_s=limit_s)
        if status not in (None, done.returncode):
            raise Failed(f'spore {" ".join(words)[:200]}: status {done.returncode}: '
                         f'{done.stdout[-300:]}{done.stderr[-600:]}')
        return done

    def json(self, *words, status=0, limit_s=300):
        out = self.run(*words, '--json', status=status, limit_s=limit_s).stdout
        return json.loads(out) if out else None

    def fetch(self, name, *addresses):
        urls = [f'http://{address}:8080' for address in addresses]
        return self.run('exec', name, '--', 'python3', '-c', FETCH, *urls).stdout.splitlines()

    def processes(self):
        """All that this user has."""
        return subprocess.run(['ps', '-o', 'pid=,args=', '-U', str(NUMBER)], check=False, capture_output=True,
                              text=True).stdout.splitlines()


def by_passt(host):
    if os.geteuid() != 0:
        raise Skipped('needs root, for a world to reach and a user to be')
    with Internet(), User(host) as user:
        finding = next(each for each in user.json('doctor', status=None)['checks'] if each['name'] == 'networks')
        if not finding['good']:
            raise Skipped(f'no networks by passt here: {finding["found"]}')
        check('by passt' in finding['found'], finding)
        user.run('template', 'create', 'card', '--image', host.image, '--kernel', host.fast_kernel, '--memory', '256M',
                 '--disk', '2G', '--network', 'egress', '--dns', NAMESERVER, limit_s=900)
        rules = ('--network', 'egress', '--allow', f'{PRIVATE}:8080', '--allow', '*.example:8080', '--dns', NAMESERVER)
        told = (user.json('create', 'p', '--template', 'card', *rules), user.json('stats', 'p'))
        for each in told:
            check(NOT_ENFORCED <= set(each['not_enforced']), each)
        network = user.json('list')[0]['network']
        check(network['by'] == 'passt' and network['open'] and network['intact'], network)
        got = user.fetch('p', PUBLIC, 'other.org', PRIVATE, 'web.example', PUBLIC)
        check_equal([line.startswith('no:') for line in got], [True, True, False, False, False], got)
        check_equal(got[2], 'hello 192.0.2.1', f'{PRIVATE}, which sees the host')
        check(user.json('stats', 'p')['network']['tx_bytes'] > 0, 'nothing is counted')
        told = user.json('update', 'p', '--network', 'none')['network']
        check(not told['open'] and told['intact'], told)
        check(user.fetch('p', PRIVATE)[0].startswith('no:'), 'network none')
        user.run('destroy', 'p')
        check_equal(user.json('list'), [], 'what is left')
        wait_until(lambda: not user.processes(), f'all of its processes to be gone: {user.processes()}')
        check_equal(os.listdir(f'{user.home}/spore/sandboxes'), [], 'left of the sandbox')


TESTS = [('sandbox-by-passt', by_passt)]
