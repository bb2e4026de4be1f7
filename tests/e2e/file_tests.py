"""Files in a sandbox, by `spore file` and `spore cp`: what goes in comes out, byte for byte."""

import hashlib
import json
import os
import shutil
import subprocess

from host import check, check_equal, wait_until
from sandbox_tests import Sandbox

MIB = 1 << 20
STRANGE = ('; rm -rf *', '$(reboot)', "a'b\"c`d", 'new\nline', '-rf', '\udcff\udcfe', ' ', 'x' * 255)


def digest(directory):
    """Every name below with its kind, mode and content."""
    found = {}
    for at, directories, files in os.walk(os.fsencode(directory)):
        for name in directories + files:
            path = os.path.join(at, name)
            status = os.lstat(path)
            if os.path.islink(path):
                content = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, 'rb') as file:
                    content = hashlib.sha256(file.read()).digest()
            else:
                content = b''
            found[os.path.relpath(path, os.fsencode(directory))] = (oct(status.st_mode), content)
    return found


def names_and_contents(host, box):
    for number, name in enumerate(STRANGE):
        content = os.urandom(number * 9973)
        path = f'/root/strange/{name}'
        host.run('file', 'write', '-p', box, path, stdin=content)
        check_equal(host.run('file', 'read', box, path).stdout, content, f'content of {name!r}')
    listed = host.run('file', 'list', '-0', box, '/root/strange').stdout.split(b'\0')[:-1]
    check_equal(sorted(listed), sorted(map(os.fsencode, STRANGE)), 'names')
    entries = host.json('file', 'list', box, '/root/strange')['entries']
    check_equal(sum('path_base64' in entry for entry in entries), 1, 'names that are not UTF-8')
    # The guest's own programs see the same.
    check_equal(int(host.exec(box, 'ls /root/strange | wc -c')), sum(len(os.fsencode(name)) + 1 for name in STRANGE),
                'bytes of names')
    host.run('file', 'remove', '-r', box, '/root/strange')
    host.run('file', 'exists', box, '/root/strange', status=66)


def large_file(host, box):
    content = os.urandom(64 * MIB)
    host.run('file', 'write', box, '/root/large', stdin=content, limit_s=600)
    wanted = hashlib.sha256(content).hexdigest()
    check_equal(host.exec(box, 'sha256sum < /root/large').split()[0], wanted, 'the sum in the guest')
    got = host.run('file', 'read', box, '/root/large', limit_s=600).stdout
    check(got == content, f'read back: {len(got)} bytes, or others')
    part = host.run('file', 'read', box, '/root/large', '--offset', '1000003', '--length', '70000').stdout
    check(part == content[1000003:1070003], 'a part of it')
    host.run('file', 'remove', box, '/root/large')


def one_step_each(host, box):
    host.run('file', 'write', box, '/root/f', '--mode', '640', stdin=b'one')
    error = host.json('file', 'write', box, '/root/f', '--create', status=73)['error']
    check_equal(error['code'], 'already_exists', 'create over it')
    host.run('file', 'write', box, '/root/f', '--append', stdin=b' two')
    host.run('file', 'write', box, '/root/f', '--offset', '1', stdin=b'NE')
    host.run('file', 'link', box, '/root/link', 'f')
    info = host.json('file', 'stat', box, '/root/link')
    check_equal((info['type'], info['target']), ('symlink', 'f'), 'the link')
    info = host.json('file', 'stat', '-L', box, '/root/link')
    check_equal((info['type'], info['size'], info['mode']), ('file', 7, '0640'), 'what it leads to')
    host.run('file', 'write', box, '/root/link', stdin=b'through')
    check_equal(host.exec(box, 'readlink /root/link; cat /root/f'), 'f\nthrough', 'written through it')
    host.run('file', 'move', box, '/root/f', '/root/g')
    error = host.json('file', 'read', box, '/root/f', status=66)['error']
    check_equal(error['code'], 'not_found', 'what was moved')
    host.run('file', 'mkdir', box, '/root/d')
    host.run('file', 'mkdir', box, '/root/d', status=73)
    host.run('file', 'mkdir', '-p', box, '/root/d/e/f')
    host.run('file', 'remove', box, '/root/d', status=64)
    host.run('file', 'remove', '-r', box, '/root/d')
    check_equal(host.exec(box, 'ls /root'), 'g\nlink', 'what is left')
    for path in ('x' * 5000, '/dev/zero', '/root'):
        error = host.json('file', 'read', box, path, status=64)['error']
        check_equal(error['code'], 'invalid_argument', f'reading {path[:20]}')
    host.run('file', 'remove', box, '/root/g')
    host.run('file', 'remove', box, '/root/link')


def trees(host, box):
    tree = host.directory('tree')
    for number in range(60):
        directory = os.path.join(tree, f'd{number % 7}', 'sub' * (number % 3))
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, f'file {number}'), 'wb') as file:
            file.write(os.urandom(number * 701))
    os.chmod(os.path.join(tree, 'd0'), 0o750)
    os.symlink('d1', os.path.join(tree, 'link'))
    os.symlink('/nowhere', os.path.join(tree, 'dangling'))
    os.link(os.path.join(tree, 'd1/sub/file 1'), os.path.join(tree, 'd2/name'))
    counts = host.json('cp', tree, f'{box}:/root/tree')
    check_equal((counts['files'], counts['links'], counts['skipped']), (60, 3, 0), 'copied in')
    check_equal(host.exec(box, 'cd /root/tree && readlink link && find . -type f | wc -l && stat -c %h d2/name'),
                'd1\n61\n2', 'in the guest')
    back = os.path.join(host.directory('back'), 'tree')
    counts = host.json('cp', f'{box}:/root/tree', back)
    check_equal((counts['files'], counts['links'], counts['skipped']), (60, 3, 0), 'copied out')
    check_equal(digest(back), digest(tree), 'the tree that came back')
    check(os.path.samefile(os.path.join(back, 'd1/sub/file 1'), os.path.join(back, 'd2/name')), 'one file of two names')
    counts = host.json('cp', f'{box}:/root/tree', f'{box}:/root/again')  # the same sandbox on both sides
    check_equal((counts['files'], counts['links'], counts['skipped']), (60, 3, 0), 'copied across')
    check_equal(host.exec(box, 'cd /root && diff -r --no-dereference tree again && echo same'), 'same', 'the tree across')
    done = host.run('cp', '-', f'{box}:/root/stream', stdin=b'by cp')
    check_equal(host.run('cp', f'{box}:/root/stream', '-').stdout, b'by cp', '-')
    check_equal(done.stderr, b'', 'progress without a terminal')
    host.run('cp', 'a', 'b', status=64)


def hostile_links(host, box):
    """A guest that makes links out of the target between two copies reaches nothing."""
    target = host.directory('hostile')
    victim = host.directory('victim')
    host.exec(box, f'mkdir -p /root/evil/d && ln -s {victim} /root/evil/d/out && echo x > /root/evil/f')
    host.run('cp', f'{box}:/root/evil', target)
    check(os.path.islink(os.path.join(target, 'evil/d/out')), 'the link is copied as one')
    host.exec(box, 'rm /root/evil/d/out && mkdir /root/evil/d/out && echo x > /root/evil/d/out/file')
    error = host.json('cp', f'{box}:/root/evil', target, status=73)['error']
    check_equal(error['code'], 'already_exists', 'through the link of before')
    check_equal(os.listdir(victim), [], 'behind the link')


def watching(host, box):
    host.exec(box, 'mkdir -p /root/w/a')
    with host.start('file', 'watch', '-r', '--json', box, '/root/w', stdout=subprocess.PIPE) as watch:
        try:
            check_equal(json.loads(watch.stdout.readline())['event'], 'watching', 'the first line')
            host.exec(box, 'cd /root/w && mkdir b && echo x > a/f && mv a/f b/g && rm b/g && mkdir end')
            told = []
            while ('created', 'end', None) not in told:
                line = watch.stdout.readline()
                check(line, f'it ended; told: {told}')
                each = json.loads(line)
                told.append((each['event'], each['path'], each.get('to')))
        finally:
            watch.kill()
    for wanted in (('created', 'b', None), ('created', 'a/f', None), ('moved', 'a/f', 'b/g'),
                   ('removed', 'b/g', None)):
        check(wanted in told, f'{wanted} is not told: {told}')


def full_disk(host, box):
    """The root's ext4, filled but for 4 MiB (most of it reserved, since writing takes long here), and a tmpfs."""
    host.exec(box, 'fallocate -l $((($(stat -fc %f /) - 8192) * $(stat -fc %S /))) /root/fill && mkdir /root/full')
    host.exec(box, 'cat /dev/zero >/root/fill2 2>/dev/null; truncate -s -4M /root/fill2 && sync')
    no_room(host, box, '/root/full')
    host.exec(box, 'rm -r /root/fill* /root/full/* && mount -t tmpfs -o size=4m none /root/full')
    no_room(host, box, '/root/full')
    check_equal(host.exec(box, 'umount /root/full && echo gone'), 'gone', 'nothing holds it')


def no_room(host, box, directory):
    kept = os.urandom(MIB)
    host.run('file', 'write', box, f'{directory}/kept', stdin=kept)
    for options in ((), ('--append',)):
        done = host.run('file', 'write', '--json', *options, box, f'{directory}/kept',
                        stdin=os.urandom(8 * MIB), status=75)
        error = json.loads(done.stdout)['error']
        check_equal(error['code'], 'resource_exhausted', f'a full disk, {options}')
        check('No space left' in error['message'], error['message'])
        got = host.run('file', 'read', box, f'{directory}/kept').stdout
        check(got[:MIB] == kept, f'{options}: what was there')
        check_equal(len(got) == MIB, not options, 'replaced: as it was; appended: as far as it went')
    check_equal(host.exec(box, f'ls -A {directory}'), 'kept', 'no temporary')


def cut_off(host, box):
    """A client that is killed in the middle of a write leaves the file as it was."""
    host.run('file', 'write', box, '/root/kept', stdin=b'old')
    writer = host.start('file', 'write', box, '/root/kept', stdin=subprocess.PIPE)
    writer.stdin.write(os.urandom(MIB))
    writer.stdin.flush()
    wait_until(lambda: int(host.exec(box, 'ls -l /proc/1/fd | grep -c "/root/#.*deleted"; true')) > 0,
               'the agent to have the new file open')
    writer.kill()
    writer.wait()
    wait_until(lambda: int(host.exec(box, 'ls -l /proc/1/fd | grep -c "/root/#.*deleted"; true')) == 0,
               'the agent to drop it')
    writer.stdin.close()
    check_equal(host.exec(box, 'cat /root/kept; echo; ls -A /root | grep -c spore; true'), 'old\n0', 'the file')


def files(host):
    with Sandbox(host, 'files') as box:
        for part in (names_and_contents, one_step_each, trees, hostile_links, watching, full_disk, cut_off,
                     large_file):
            part(host, box)


TESTS = [
    ('files', files),
]
