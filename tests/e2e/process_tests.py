"""Programs in a sandbox that go on without those who started them: `spore process`."""

import json
import signal
import subprocess

from host import check, check_equal, wait_until
from sandbox_tests import Sandbox

# One in a session of its own, one that is nobody's child, and the process itself.
FAMILY = ("setsid sh -c 'echo $$ > /tmp/pid1; exec sleep 1000' & "
          "( ( sh -c 'echo $$ > /tmp/pid2; exec sleep 1000' & ) & ) ; "
          "echo $$ > /tmp/pid3; exec sleep 1000")


def start(host, name, *arguments):
    return host.json('process', 'start', name, *arguments)['id']


def records(host, name, process, *arguments):
    done = host.run('process', 'logs', name, str(process), '--json', *arguments)
    return [json.loads(line) for line in done.stdout.splitlines()]


def http_server(host, name):
    """Started in the background, waited for, followed by another client that is killed and comes back."""
    server = start(host, name, '--name', 'web', '-e', 'PYTHONUNBUFFERED=1', '-w', '/usr/share', '--',
                   'python3', '-m', 'http.server', '8080')
    host.run('process', 'wait-port', name, '8080', '--path', '/doc/', '--process', 'web', '--timeout', '250s')
    error = host.json('process', 'wait-port', name, '8080', '--path', '/nosuch', '--timeout', '20s', status=None)
    check_equal(error['error']['code'], 'timeout', 'waiting for a page that is not there')
    check('404' in error['error']['message'], f'does not say why: {error}')
    line = host.json('process', 'wait-log', name, 'web', '-E', '"GET /doc/ HTTP/[0-9.]+" 200', '--timeout', '60s')
    check('GET /doc/' in line['line'], f'another line: {line}')

    follower = host.start('process', 'logs', name, 'web', '--follow', '--json', stdout=subprocess.PIPE)
    first = json.loads(follower.stdout.readline())
    follower.kill()
    follower.wait()
    host.exec(name, 'curl -s http://127.0.0.1:8080/once-more >/dev/null')
    host.run('process', 'wait-log', name, 'web', 'once-more', '--timeout', '60s')
    again = records(host, name, 'web', '--from', str(first['sequence'] + 1))
    check_equal(again[0]['sequence'], first['sequence'] + 1, 'where it goes on')
    check_equal(sum(each['dropped'] for each in again), 0, 'bytes dropped')
    check('once-more' in ''.join(each.get('text', '') for each in again), f'not in the log: {again}')

    follower = host.start('process', 'logs', name, str(server), '--follow', stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    host.run('process', 'signal', name, 'web', 'TERM')
    host.run('process', 'wait', name, 'web', status=128 + signal.SIGTERM)
    out, err = follower.communicate(timeout=120)
    check_equal(follower.returncode, 0, 'the follower, at its end')
    check(b'once-more' in out + err, f'not followed: {out + err}')


def killed_with_descendants(host, name):
    family = start(host, name, '--', 'sh', '-c', FAMILY)
    wait_until(lambda: host.exec(name, 'cat /tmp/pid1 /tmp/pid2 /tmp/pid3 2>/dev/null | wc -l') == '3',
               'three processes')
    alive = 'for i in 1 2 3; do kill -0 $(cat /tmp/pid$i) 2>/dev/null && echo $i; done; true'
    check_equal(host.exec(name, alive).split(), ['1', '2', '3'], 'alive')
    host.run('process', 'kill', name, str(family))
    host.run('process', 'wait', name, str(family), status=128 + signal.SIGKILL)
    wait_until(lambda: host.exec(name, alive) == '', 'the end of all that came of it')
    host.run('process', 'remove', name, str(family))
    check_equal(host.exec(name, 'ls -d /sys/fs/cgroup/commands/process-*; true').count(f'process-{family}\n'), 0,
                'its control group')


def output_and_input(host, name):
    cat = start(host, name, '--name', 'cat', '--stdin', '--', 'cat')
    host.run('process', 'input', name, 'cat', '--keep', stdin=b'one\n')
    host.run('process', 'wait-log', name, 'cat', 'one', '--timeout', '60s')
    error = host.json('process', 'start', name, '--name', 'cat', '--', 'true', status=73)
    check_equal(error['error']['code'], 'already_exists', 'a second of that name')
    host.run('process', 'input', name, 'cat', stdin=b'two\xff\n')
    host.run('process', 'wait', name, 'cat')
    found = records(host, name, 'cat')
    check_equal([each.get('text') or each.get('text_base64') for each in found], ['one\n', 'dHdv/wo='], 'its log')
    check_equal(host.run('process', 'logs', name, 'cat').stdout, b'one\ntwo\xff\n', 'its log as it is')
    stamped = host.run('process', 'logs', name, 'cat', '--timestamps').stdout.split(b'\n')
    check(stamped[0].endswith(b'Z one') and stamped[0].startswith(b'20'), f'timestamps: {stamped}')
    shown = host.json('process', 'show', name, str(cat))
    check_equal((shown['state'], shown['end']['exit_status'], shown['log_bytes']), ('ended', 0, 9), 'show')


def statuses(host, name):
    host.run('process', 'start', name, '--', 'no-such-program', status=127)
    host.run('process', 'start', name, '--', '/etc/passwd', status=126)
    seven = start(host, name, '-u', 'nobody', '-e', 'A=b c', '-w', '/tmp', '--', 'sh', '-c',
                  'id -un; echo "$A"; pwd; exit 7')
    host.run('process', 'wait', name, str(seven), status=7)
    check_equal(host.run('process', 'logs', name, str(seven)).stdout, b'nobody\nb c\n/tmp\n', 'its output')
    long = start(host, name, '--', 'sleep', '1000')
    host.run('process', 'wait', name, str(long), '--timeout', '200ms', status=124)
    host.run('process', 'remove', name, str(long), status=None)
    check_equal(host.json('process', 'show', name, str(long))['state'], 'running', 'after remove')
    host.run('process', 'kill', name, str(long))
    host.run('process', 'show', name, '999', status=66)
    listed = {each['id']: each['state'] for each in host.json('process', 'list', name)}
    check_equal(listed[seven], 'ended', 'in the list')


def processes(host):
    with Sandbox(host, 'processes') as name:
        for part in (http_server, killed_with_descendants, output_and_input, statuses):
            part(host, name)


TESTS = [('processes', processes)]
