"""Templates, clones and commands in them, as people use them: by `spore`."""

import os
import shutil
import signal
import subprocess
import time

from host import Skipped, check, check_equal, read_text, wait_until

CLONES = 20
# No word of the kernel's that anybody should have to look into. SRSO is the host's CPU's own matter.
ALARMING = ('BUG', 'WARNING', 'Oops', 'XSAVE consistency', 'Call Trace', 'soft lockup', 'rcu_sched', 'Unable to')
HARMLESS = ('Speculative Return Stack Overflow', 'and report a bug')


def doctor(host):
    found = host.json('doctor', status=None)
    check_equal(found['host'], 'kvm', 'host')
    check_equal(found['good'], True, 'good')
    bad = [each for each in found['checks'] if each['needed'] and not each['good']]
    check_equal(bad, [], 'checks that are not good')


def template_lifecycle(host):
    host.run('template', 'remove', 'nosuch', status=66)
    name = host.template(host.fast_kernel)
    check(name in [each['name'] for each in host.json('template', 'list')], 'it is not in the list')
    info = host.json('template', 'inspect', name)
    check_equal((info['image'], info['memory_bytes'], info['cpus']), (host.image, 256 << 20, 1),
                'image, memory and vCPUs')
    check(0 < info['memory_image_bytes'] <= 256 << 20, f'memory image: {info["memory_image_bytes"]}')
    host.run('template', 'verify', name)
    error = host.json('template', 'create', name, '--image', host.image, status=73)['error']
    check_equal(error['code'], 'already_exists', 'error code')
    left = [each for each in os.listdir(os.path.join(host.home, 'templates')) if each[0] == '.']
    check_equal(left, [], 'left in templates')


def verify_finds_a_flipped_byte(host):
    """In a copy, which is compared and sealed anew first: its files are not those that were sealed."""
    source = os.path.join(host.home, 'templates', host.template(host.fast_kernel))
    target = os.path.join(host.home, 'templates', 'flipped')
    subprocess.run(['cp', '-r', '--sparse=always', source, target], check=True)
    try:
        check_equal(host.json('template', 'verify', 'flipped')['sealed_anew'], True, 'sealed_anew')
        for name, place in (('state.spore', 2), ('memory.img', 2), ('base.img', 3), ('disk-0.img', 3),
                            ('disk-0.map', 2), ('checksums.spore', 2), ('template.json', 2)):
            path = os.path.join(target, name)
            flip(path, os.path.getsize(path) // place)
            error = host.json('template', 'verify', 'flipped', status=65)['error']
            check_equal(error['code'], 'corrupt', f'{path} at 1/{place}')
            check(name in error['message'], f'{error["message"]} does not name {name}')
            if name != 'checksums.spore':  # nothing of a clone's
                error = host.json('create', 'flipped', '--template', 'flipped', status=65)['error']
                check(name in error['message'], f'{error["message"]} does not name {name}')
            flip(path, os.path.getsize(path) // place)
        host.run('create', 'mended', '--template', 'flipped')
        host.run('destroy', 'mended')
    finally:
        shutil.rmtree(target)


def flip(path, place):
    with open(path, 'r+b') as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))


class Sandbox:
    """A clone that is there for a `with`."""

    def __init__(self, host, name, kernel=None, cpus=1):
        self.host, self.name = host, name
        host.run('create', name, '--template', host.template(kernel or host.fast_kernel, cpus))

    def __enter__(self):
        return self.name

    def __exit__(self, *_):
        self.host.run('destroy', self.name)


def template_in_use(host):
    with Sandbox(host, 'user'):
        done = host.run('template', 'remove', host.template(host.fast_kernel), status=None)
        check(done.returncode != 0, 'a template was removed while a sandbox of it lived')
        check(b"sandbox 'user'" in done.stderr, f'does not name the sandbox: {done.stderr!r}')
        check_equal(host.exec('user', 'echo here'), 'here', 'what it says')


def exec_streams(host):
    with Sandbox(host, 'streams') as name:
        # A megabyte of lines on each stream at once, each stream its own text.
        script = ('yes out-line | head -c 1048576 & yes err-line | head -c 1048576 >&2; wait')
        done = host.run('exec', name, '--', 'sh', '-c', script)
        for stream, word in ((done.stdout, b'out-line\n'), (done.stderr, b'err-line\n')):
            wanted = (word * (1048576 // len(word) + 1))[:1048576]
            check(stream == wanted, f'{word}: {len(stream)} bytes, expected {len(wanted)}; '
                                    f'they begin {stream[:60]!r} and end {stream[-60:]!r}')
        data = os.urandom(1 << 20)
        done = host.run('exec', '-i', name, '--', 'cat', stdin=data)
        check(done.stdout == data, f'stdin through cat: {len(done.stdout)} bytes, or others')
        done = host.run('exec', name, '--', 'cat')
        check_equal(done.stdout, b'', 'stdin without -i')


def exec_statuses(host):
    with Sandbox(host, 'statuses') as name:
        for argv, status in ((('sh', '-c', 'exit 7'), 7), (('true',), 0), (('/etc/passwd',), 126),
                             (('nosuch',), 127), (('sh', '-c', 'kill -9 $$'), 137),
                             (('sh', '-c', 'kill -15 $$'), 143), (('/no/such/program',), 127)):
            host.run('exec', name, '--', *argv, status=status)
        begun = time.monotonic()
        host.run('exec', '--timeout', '2s', name, '--', 'sleep', '1000', status=124)
        check(time.monotonic() - begun >= 2, 'the timeout struck too early')
        done = host.run('exec', '-e', 'A=a b', '-e', 'B=', '-w', '/usr/lib', name, '--',
                        'sh', '-c', 'echo "$A|${B-unset}|$(pwd)"')
        check_equal(done.stdout, b'a b||/usr/lib\n', '-e and -w')
        both = [host.start('exec', name, '--', 'sh', '-c', f'sleep 2; echo {word}',
                           stdout=subprocess.PIPE) for word in ('one', 'two')]
        check_equal([process.communicate(timeout=120)[0] for process in both],
                    [b'one\n', b'two\n'], 'two commands at once')
    done = host.run('exec', 'statuses', '--', 'true', status=125)
    check(b"'statuses'" in done.stderr, f'does not name the sandbox: {done.stderr!r}')


def check_idle(host, name):
    """Nothing polls: the serial driver would, at 100 Hz, as the port has no interrupt (agent/init.cc), and whatever else
    the guest has to do after its boot: in each of four times 5 s."""
    script = 'for i in 1 2 3 4 5; do cut -d" " -f1 /proc/uptime; grep LOC: /proc/interrupts; sleep 5; done'
    words = [line.split() for line in host.exec(name, script).splitlines()]
    marks = [(float(now[0]), int(count[1])) for now, count in zip(words[::2], words[1::2])]
    rates = [(count - before) / (now - then) for (then, before), (now, count) in zip(marks, marks[1:])]
    print('     timer interrupts a second: ' + ', '.join(f'{rate:.0f}' for rate in rates), flush=True)
    check(len(rates) == 4 and min(rates) < 50, f'{rates} timer interrupts a second in a guest that sleeps')


def check_console(host, name):
    """The kernel's words come out, and a program's, though nobody keeps the console open."""
    host.exec(name, 'echo "<3>of the kernel" > /dev/kmsg; echo of a program > /dev/console')
    log = os.path.join(host.home, 'sandboxes', name, 'console.log')
    for words in ('of the kernel', 'of a program'):
        wait_until(lambda: words in read_text(log), f'{words!r} on the console')


def quiet_kernel(kernel):
    def test(host):
        if kernel not in host.kernels():
            raise Skipped(f'image {host.image} has no {kernel} kernel')
        with Sandbox(host, 'quiet', kernel) as name:
            lines = host.exec(name, 'dmesg').splitlines()
            check(len(lines) > 50, f'dmesg has {len(lines)} lines only')
            bad = [line for line in lines if any(word in line for word in ALARMING)
                   or ('virtio' in line and ('error' in line or 'fail' in line))]
            bad = [line for line in bad if not any(word in line for word in HARMLESS)]
            check_equal(bad, [], 'alarming kernel messages')
            check('spore-agent: ready' in '\n'.join(lines), 'the agent\'s own words are not in the kernel\'s log')
            check_idle(host, name)
            check_console(host, name)
    return test


def four_cpus(host):
    with Sandbox(host, 'four', cpus=4) as name:
        check_equal(host.exec(name, 'nproc'), '4', 'nproc in a clone')
        # Each of them works, and wakes the others.
        check_equal(host.exec(name, 'for c in 0 1 2 3; do taskset -c $c sh -c "sleep 0.2; echo $c" & '
                                    'done | sort; wait').split(), ['0', '1', '2', '3'], 'per CPU')


def guest_time(host, name):
    """Seconds by which a guest's clock differs, as far as the time to ask lets one know."""
    before = time.time()
    seen = float(host.exec(name, 'date +%s.%N'))
    after = time.time()
    return max(before - seen, seen - after, 0)


def timers(host):
    """Of a template that has lain for a while, so its clock stood still meanwhile."""
    made = os.path.getmtime(os.path.join(host.home, 'templates', host.template(host.fast_kernel),
                                         'template.json'))
    wait_until(lambda: time.time() > made + 5, 'the template to age')
    with Sandbox(host, 'timers') as name:
        off = guest_time(host, name)
        check(off < 3, f'the clock is {off:.1f} s off')
        begun = time.monotonic()
        seen = host.exec(name, 'cat /proc/uptime; sleep 2; cat /proc/uptime').split()
        took = time.monotonic() - begun
        slept = float(seen[2]) - float(seen[0])
        check(took >= 2 and 2 <= slept <= took + 0.5, f'sleep 2 took {took:.2f} s here, {slept:.2f} there')


def clones(host):
    names = [f'clone-{number}' for number in range(CLONES)]
    template = host.template(host.fast_kernel)
    creators = [host.start('create', name, '--template', template, '--timeout', '250s',
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for name in names]
    try:
        errors = [creator.communicate(timeout=300)[1] for creator in creators]
        check(not any(creator.returncode for creator in creators),
              f'create failed: {[error for error in errors if error]}')
        seen = {}
        for name in names:
            before = int(time.time())
            seen[name] = host.exec(
                name, 'cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id '
                      f'/etc/machine-id; hostname; date +%s; ls /root; echo {name} > /root/mine-{name}'
            ).split('\n')
            clock = int(seen[name][4])
            off = max(before - clock, clock - time.time())
            check(off < 3, f'{name}: its clock is {off:.1f} s off')
        for column, what in enumerate(('uuid', 'boot_id', 'machine-id', 'hostname')):
            values = {lines[column] for lines in seen.values()}
            check_equal(len(values), CLONES, f'different values of {what}')
        check_equal([lines[3] for lines in seen.values()], names, 'hostnames')
        for name in names:
            check_equal(seen[name][5:], [], f'/root of {name} at first')
        check_equal(host.exec(names[0], 'cat /root/mine-*'), names[0], 'files of the first clone')
        check_equal(sorted(each['id'] for each in host.json('list') if each['state'] == 'running'),
                    sorted(names), 'spore list')
    finally:
        host.run('destroy', *names, status=None)
    nothing_left(host)


def nothing_left(host):
    wait_until(lambda: not host.vmm_processes(), 'the end of every spore-vmm')
    for directory in ('sandboxes',):
        check_equal(os.listdir(os.path.join(host.home, directory)), [], f'left in {directory}')
    check_equal(host.json('list'), [], 'spore list')


def killed_vmm(host):
    host.run('create', 'killed', '--template', host.template(host.fast_kernel))
    try:
        pid = host.json('list')[0]['pid']
        check_equal(host.vmm_processes(), [pid], 'the process in the list')
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not host.vmm_processes(), 'the end of spore-vmm')
        check_equal([(each['id'], each['state']) for each in host.json('list')],
                    [('killed', 'dead')], 'spore list')
        done = host.run('exec', 'killed', '--', 'true', status=125)
        check(b"'killed'" in done.stderr, f'does not name the sandbox: {done.stderr!r}')
        error = host.json('exec', 'killed', '--', 'true', status=125)['error']
        check_equal(error['code'], 'unavailable', 'error code')
    finally:
        host.run('destroy', 'killed')
    nothing_left(host)
    host.run('destroy', 'killed', status=66)


FIRST = [
    ('doctor', doctor),
]
TESTS = [
    ('template-lifecycle', template_lifecycle),
    ('template-verify', verify_finds_a_flipped_byte),
    ('template-in-use', template_in_use),
    ('exec-statuses', exec_statuses),
    ('exec-streams', exec_streams),
    ('killed-vmm', killed_vmm),
    ('timers', timers),
    ('dmesg-tuned', quiet_kernel('tuned')),
    ('dmesg-stock', quiet_kernel('stock')),
    ('clones', clones),
    ('four-cpus', four_cpus),
]
