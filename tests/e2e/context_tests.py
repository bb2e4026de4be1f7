"""Interpreters in a sandbox that keep their state: `spore context`."""

import base64
import json

from host import Skipped, check, check_equal, wait_until
from sandbox_tests import Sandbox

PICTURE = '''class Picture:
    def _repr_png_(self): return b'\\x89PNG bytes'
display([1, 2])
Picture()'''


def run(host, name, context, code, *options, status=0):
    done = host.run('context', 'run', name, context, '--json', *options, '-', stdin=code.encode(), status=status)
    return json.loads(done.stdout)


def python(host):
    with Sandbox(host, 'contexts') as name:
        host.run('context', 'create', name, 'one', '--language', 'python', '-w', '/tmp')
        host.run('context', 'create', name, 'two')
        run(host, name, 'one', 'x = 6\ndef f(y): return x * y')
        run(host, name, 'two', 'x = 1')
        found = run(host, name, 'one', 'import os, sys\nprint(os.getcwd()); print("err", file=sys.stderr)\nf(7)')
        check_equal((found['status'], found['stdout'], found['stderr'], found['result']['text/plain']),
                    ('ok', '/tmp\n', 'err\n', '42'), 'a run')
        bad = run(host, name, 'one', 'f(1) / 0', status=1)
        check_equal((bad['status'], bad['error']['name']), ('error', 'ZeroDivisionError'), 'an error')
        check('line 1, in <module>' in bad['error']['traceback'], f'traceback: {bad["error"]["traceback"]}')
        rich = run(host, name, 'two', PICTURE)
        check_equal(base64.b64decode(rich['result']['image/png']), b'\x89PNG bytes', 'a picture')
        check_equal(rich['displays'][0]['application/json'], '[1, 2]', 'what is displayed')
        late = run(host, name, 'one', 'while True: pass', '--timeout', '2s', status=124)
        check_equal((late['status'], late['context_lost']), ('timed_out', False), 'one that takes too long')
        check_equal(host.run('context', 'run', name, 'one', 'print("plain"); x').stdout, b'plain\n6\n',
                    'without --json')
        check_equal([each['name'] for each in host.json('context', 'list', name)], ['one', 'two'], 'list')

        run(host, name, 'two', 'import subprocess; p = subprocess.Popen(["sleep", "1000"], start_new_session=True)\n'
            'open("/tmp/child", "w").write(str(p.pid))')
        host.run('context', 'delete', name, 'two')
        wait_until(lambda: host.exec(name, 'kill -0 $(cat /tmp/child) 2>/dev/null && echo alive; true') == '',
                   'the end of what its code had started')
        host.run('context', 'run', name, 'two', '1', status=125)


def javascript(host):
    with Sandbox(host, 'javascript') as name:
        if host.run('exec', name, '--', 'node', '--version', status=None).returncode == 127:
            raise Skipped(f'image {host.image} has no node')
        host.run('context', 'create', name, 'js', '--language', 'javascript')
        run(host, name, 'js', 'const x = 6; function f(y) { return x * y }')
        check_equal(run(host, name, 'js', 'f(7)')['result']['text/plain'], '42', 'a run')


TESTS = [('contexts-python', python), ('contexts-javascript', javascript)]
