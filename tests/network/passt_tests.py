"""Networks of a user who may make no links on the host, by passt: tests of tests/network/run."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

from limit_tests import passt_is_in_a_cgroup, resolvers
from plain_user import NUMBER, PlainUser
from world import check, wait_until


class User(PlainUser):
    """With a template of theirs, and a world around the host."""

    def __init__(self, rig):
        super().__init__(rig.spore, f'/run/user-{NUMBER}', rig.environment)
        self.rig = rig
        # Debian's /dev/net/tun is everybody's, and /dev/kvm a group's; in a container both may be root's.
        for number, (name, place) in ((200, ('tun', '/dev/net/tun')), (232, ('kvm', '/dev/kvm'))):
            if not os.path.exists(f'/run/{name}'):
                subprocess.run(['mknod', '-m', '666', f'/run/{name}', 'c', '10', str(number)], check=True)
                subprocess.run(['mount', '--bind', f'/run/{name}', place], check=True)
        for words in ('link add out type veth peer name in', 'link set in up', 'addr add 192.0.2.1/24 dev out',
                      'link set out up', 'route add default via 192.0.2.2'):
            subprocess.run(['ip', *words.split()], check=True)
        os.makedirs(f'{self.home}/spore', mode=0o700)
        subprocess.run([rig.make_image, f'{self.home}/spore', 'freestanding', rig.guest], check=True,
                       stdout=subprocess.DEVNULL)
        self.give_home()

    def run(self, *words, status=0):
        done = self.call(*words, '--json')
        check(status in (None, done.returncode), f'{words}: {done.returncode}: {done.stdout} {done.stderr}')
        return json.loads(done.stdout) if done.stdout else None

    def run_without_pasta(self, *words):
        """(status, answer), in mounts where an empty file is in its place."""
        self.session = ('unshare', '--mount', 'sh', '-c', 'mount --bind /dev/null /usr/bin/pasta && exec "$@"', 'sh')
        done = self.call(*words, '--json')
        self.session = ()
        return done.returncode, json.loads(done.stdout)

    def network(self, name):
        return next(each['network'] for each in self.run('list') if each['id'] == name)

    def processes(self):
        """Of networks: pasta's, and keepers'."""
        found = {}
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                with open(f'/proc/{pid}/cmdline', 'rb') as file:
                    words = file.read().split(b'\0')
            except OSError:
                continue
            if b'network-keeper' in words:
                found.setdefault('pasta' if b'--config-net' in words else 'keeper', []).append(int(pid))
        return found

    def clean(self):
        for sandbox in self.run('list', status=None) or []:
            self.run('destroy', sandbox['id'], status=None)
        self.run('pool', 'stop', 'card', status=None)
        shutil.rmtree(self.home, ignore_errors=True)
        subprocess.run(['ip', 'link', 'delete', 'out'], check=True)


def by_passt(rig):
    """As a user who may make no links on the host."""
    user = User(rig)
    try:
        by_passt_of(user)
        passt_is_in_a_cgroup(user, NUMBER)
    finally:
        user.clean()


def by_passt_of(user):
    dns = user.rig.dns
    finding = next(each for each in user.run('doctor', status=None)['checks'] if each['name'] == 'networks')
    check(finding['good'] and 'by passt' in finding['found'] and 'Not enforced' in finding['found'], finding)
    user.run('template', 'create', 'card', '--image', 'freestanding', '--memory', '128M', '--disk', '2M',
             '--network', 'egress', *dns)
    wait_until(lambda: user.processes() == {} or user.processes(), 'the network of a template in the making to be gone')
    status, said = user.run_without_pasta('create', 'a', '--template', 'card', '--network', 'egress', *dns)
    check(status == 69 and said['error']['code'] == 'host_unsupported', (status, said))
    check('apt-get install passt' in said['error']['message'] and user.run('list') == [], said)
    finding = next(each for each in user.run_without_pasta('doctor')[1]['checks'] if each['name'] == 'networks')
    check(not finding['good'] and finding['remedy'] == 'apt-get install passt', finding)
    made = user.run('create', 'a', '--template', 'card', '--network', 'egress', '--allow', 'a.example', *dns)
    for said in (made, user.run('stats', 'a')):
        check({'network_host_rules', 'network_cgroup'} <= set(said['not_enforced']), said)
    told = user.network('a')
    check(told['by'] == 'passt' and told['open'] and told['intact'] and told['allow'] == ['a.example'], told)
    check(len(resolvers(user.rig)) == 1, 'no resolver')
    told = user.run('update', 'a', '--network', 'none')['network']
    check(not told['open'] and told['intact'] and not resolvers(user.rig), told)
    told = user.run('update', 'a', '--network', 'open', '--deny', '10.0.0.0/8', *dns)['network']
    check(told['open'] and told['intact'] and told['mode'] == 'open', told)
    user.run('destroy', 'a')
    wait_until(lambda: user.processes() == {} or user.processes(), 'all of it to be gone')
    for who in ('pasta', 'keeper', 'vmm'):
        user.run('create', 'k', '--template', 'card', '--network', 'egress', *dns)
        found = user.processes()
        check({key: len(value) for key, value in found.items()} == {'pasta': 1, 'keeper': 1}, found)
        os.kill(user.run('list')[0]['pid'] if who == 'vmm' else found[who][0], signal.SIGKILL)
        wait_until(lambda: user.processes() == {} or user.processes(), f'its network to end with its {who}')
        told = user.network('k')
        check(not told['open'] and not told['intact'] and 'nothing passes' in told['why'], told)
        user.run('destroy', 'k')
    user.run('pool', 'start', 'card', '--ready', '1')
    made = user.run('create', 'p', '--template', 'card', '--network', 'egress', *dns)
    check(made['source'] == 'ready' and user.network('p')['intact'], made)
    user.run('pool', 'stop', 'card')
    check({key: len(value) for key, value in user.processes().items()} == {'pasta': 1, 'keeper': 1}, 'of p alone')
    user.run('destroy', 'p')
    wait_until(lambda: user.processes() == {} or user.processes(), 'all of it to be gone')
    moments = random.Random(random.randrange(1 << 32))
    for _ in range(10):
        process = subprocess.Popen(
            user.command('create', 'k', '--template', 'card', '--network', 'egress', *dns), env=user.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.communicate()
        if user.run('list'):
            user.run('destroy', 'k')
    wait_until(lambda: user.run('list') == [] and user.processes() == {} or user.processes(),
               'what killed creates have left')
