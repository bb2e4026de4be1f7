"""Sandboxes apart on the host: users of their own, nothing of the dead to be seen, templates of an owner."""

import os
import re
import signal
import stat

from host import check, check_equal, wait_until
from pool_tests import Pool, no_pool_left

FIRST, LAST = 900000, 965535
USERS = '/run/spore-users'


def users(host):
    """UID of each sandbox, by what /proc says."""
    return {each['id']: each['uid'] for each in host.json('list')}


def own_users(host):
    with Pool(host, parked=1, ready=1) as pool:
        waiting = {os.stat(os.path.join(pool.directory, name)).st_uid
                   for name in os.listdir(pool.directory) if name.startswith(('parked-', 'ready-'))}
        check_equal(len(waiting), 2, 'different users of those that wait')
        sources = [pool.create(name)['source'] for name in ('one', 'two')]
        check_equal(sources, ['parked', 'ready'], 'where they came from')
        pool.create('three', '--cold')
        found = users(host)
        check(all(FIRST <= uid <= LAST for uid in found.values()), f'users {found}')
        check_equal(len(set(found.values())), 3, f'different users: {found}')
        check({found['one'], found['two']} == waiting, f'they had others while they waited: {waiting}')
        for each in host.json('list'):
            item = each['jail']['own_user']
            check(item['holds'], f'{each["id"]}: {item}')
            status = os.stat(os.path.join(host.home, 'sandboxes', each['id']))
            check_equal((status.st_uid, stat.S_IMODE(status.st_mode)), (each['uid'], 0o700), 'its directory')
            groups = re.search(r'^Gid:\s+(\d+)', text_of(f'/proc/{each["pid"]}/status'), re.M)
            check_equal(int(groups.group(1)), each['uid'], 'its group')
        check_equal(host.exec('one', 'echo alive'), 'alive', 'one of them')
    no_pool_left(host)


def text_of(path):
    with open(path, encoding='utf-8') as file:
        return file.read()


def memory_of(pid):
    """All that a process has mapped and can be read, piece by piece."""
    with open(f'/proc/{pid}/maps', encoding='utf-8') as maps, open(f'/proc/{pid}/mem', 'rb', 0) as memory:
        for line in maps:
            begin, end = (int(word, 16) for word in line.split()[0].split('-'))
            if not line.split()[1].startswith('r') or '[v' in line:
                continue
            while begin < end:
                size = min(end - begin, 8 << 20)
                try:
                    memory.seek(begin)
                    yield memory.read(size)
                except OSError:
                    pass
                begin += size


def file_blocks(path):
    with open(path, 'rb') as file:
        end = os.fstat(file.fileno()).st_size
        at = 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            file.seek(at)
            piece = file.read(8 << 20)
            yield piece
            at += len(piece)


def has(pattern, pieces):
    return any(pattern in piece for piece in pieces)


def unseen_of_the_dead(host):
    """A pattern that one wrote into memory and disk is in none that comes after, nor in the template."""
    word = os.urandom(16).hex()
    pattern = (word + '\n').encode() * 4
    template = host.template(host.fast_kernel)
    with Pool(host, parked=1, ready=1) as pool:
        pool.create('dying', '--cold')
        host.exec('dying', f'yes {word} | head -c 16000000 >/dev/shm/x; yes {word} | head -c 4000000 >/root/x; sync')
        record = next(each for each in host.json('list') if each['id'] == 'dying')
        top = os.path.realpath(os.path.join(host.home, 'sandboxes', 'dying', 'disk-0.img'))
        check(has(pattern, memory_of(record['pid'])), 'its memory does not have what it wrote')
        check(has(pattern, file_blocks(top)), 'its disk does not have what it wrote')
        host.run('destroy', 'dying')
        pool.names.remove('dying')
        wait_until(lambda: not os.path.exists(f'/proc/{record["pid"]}'), 'its end')
        keeper = pool.status()['keeper_pid']
        os.kill(keeper, signal.SIGSTOP)  # nothing is made anew meanwhile
        for source in ('parked', 'ready', 'cold'):
            name = f'after-{source}'
            check_equal(pool.create(name, *(['--cold'] if source == 'cold' else []))['source'], source, 'source')
            host.exec(name, 'head -c 32000000 /dev/zero >/dev/shm/y; head -c 4000000 /dev/zero >/root/y; sync')
            pid = next(each['pid'] for each in host.json('list') if each['id'] == name)
            check(not has(pattern, memory_of(pid)), f'{name}: what the dead had written is in its memory')
            top = os.path.realpath(os.path.join(host.home, 'sandboxes', name, 'disk-0.img'))
            check(not has(pattern, file_blocks(top)), f'{name}: what the dead had written is on its disk')
        os.kill(keeper, signal.SIGCONT)
    for name in ('memory.img', 'disk-0.img', 'base.img'):
        path = os.path.join(host.home, 'templates', template, name)
        check(not has(pattern, file_blocks(path)), f'the template\'s {name} has what a clone wrote')
    no_pool_left(host)


def owners(host):
    host.run('template', 'create', 'anns', '--image', host.image, '--kernel', host.fast_kernel,
             '--owner', 'ann', limit_s=600)
    try:
        check_equal(host.json('template', 'inspect', 'anns')['owner'], 'ann', 'its owner')
        host.run('template', 'verify', 'anns')
        for options in ((), ('--owner', 'bob')):
            error = host.json('create', 'bobs', '--template', 'anns', *options, status=77)['error']
            check_equal(error['code'], 'permission_denied', f'create {options}')
        host.run('create', 'anns-own', '--template', 'anns', '--owner', 'ann')
        check_equal(host.exec('anns-own', 'echo alive'), 'alive', 'her own')
    finally:
        host.run('destroy', 'anns-own', status=None)
        host.run('template', 'remove', 'anns', status=None)


TESTS = [
    ('apart-users', own_users),
    ('apart-dead', unseen_of_the_dead),
    ('apart-owners', owners),
]
