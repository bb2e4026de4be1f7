"""Interpreters in a sandbox that keep their state: `spore context`."""

import base64
import contextlib
import json
import os
import struct

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


# With the cache of fonts that the first figure of a user makes.
WARM = 'import io, matplotlib.pyplot as p; p.plot([1]); p.savefig(io.BytesIO())'


@contextlib.contextmanager
def code_sandbox(host):
    """A clone with Node.js and matplotlib."""
    if not os.path.exists(os.path.join(host.images, 'code', 'image.json')):
        raise Skipped(f'image code: not in {host.images}; tests/e2e/make_image --name code --recipe code makes it')
    # Interpreters and modules are read from the disk once, here: clones have them in memory.
    host.run('template', 'create', 'code', '--image', 'code', '--kernel', host.fast_kernel, '--memory', '512M',
             '--disk', '2G', '--prepare', 'node -e 0', '--prepare', f'python3 -c "{WARM}"', limit_s=1500)
    host.run('create', 'code', '--template', 'code')
    try:
        yield 'code'
    finally:
        host.run('destroy', 'code')
        host.run('template', 'remove', 'code')


FIGURE = '''import matplotlib.pyplot as plt
plt.plot([1, 4, 9])
plt.title("squares")
None'''


def languages(host):
    with code_sandbox(host) as name:
        host.run('context', 'create', name, 'js', '--language', 'javascript', '-e', 'GIVEN=here',
                 '--start-timeout', '10m', limit_s=650)
        run(host, name, 'js', 'const x = 6; function f(y) { return x * y }')
        found = run(host, name, 'js', 'console.log(process.env.GIVEN); console.error("err"); f(7)')
        check_equal((found['status'], found['stdout'], found['stderr'], found['result']['text/plain']),
                    ('ok', 'here\n', 'err\n', '42'), 'a run of JavaScript')
        bad = run(host, name, 'js', 'function g() { null.x }\ng()', status=1)
        check_equal((bad['status'], bad['error']['name']), ('error', 'TypeError'), 'an error of JavaScript')
        check('at g' in bad['error']['traceback'], f'traceback: {bad["error"]["traceback"]}')
        check_equal(json.loads(run(host, name, 'js', '({a: [1, 2]})')['result']['application/json']), {'a': [1, 2]},
                    'an object')
        late = run(host, name, 'js', 'while (true) {}', '--timeout', '5s', status=124)
        check_equal((late['status'], late['context_lost']), ('timed_out', False), 'JavaScript that takes too long')
        check_equal(run(host, name, 'js', 'f(1)')['result']['text/plain'], '6', 'what it knows then')

        host.run('context', 'create', name, 'py', '--start-timeout', '10m', limit_s=650)
        figure = run(host, name, 'py', FIGURE)
        check_equal(len(figure['displays']), 1, 'figures')
        picture = base64.b64decode(figure['displays'][0]['image/png'])
        width, height = struct.unpack('>II', picture[16:24])
        check(picture.startswith(b'\x89PNG\r\n\x1a\n') and width > 100 and height > 100,
              f'a PNG of {width} x {height}, {len(picture)} bytes')
        run(host, name, 'py', 'x = 5')
        check_equal(run(host, name, 'js', 'typeof y')['result']['text/plain'], "'undefined'", 'another context')


TESTS = [('contexts-python', python), ('contexts-languages', languages)]
