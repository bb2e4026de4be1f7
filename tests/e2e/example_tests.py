"""The programs of hypervisor/examples, which know Spore by its installed headers alone."""

import os
import re
import subprocess

from host import Skipped, check, check_equal


def run(host, name, *arguments, limit_s=300):
    """What the example has printed."""
    program = os.path.join(os.path.dirname(host.spore), '../examples', name)
    if not os.path.exists(program):
        raise Skipped(f'{program}: is not built')
    done = subprocess.run([program, *arguments], env=host.environment, capture_output=True, timeout=limit_s,
                          check=False, text=True)
    check_equal((done.returncode, done.stderr), (0, ''), f'{name}: status and errors')
    check_equal(host.json('list'), [], f'sandboxes that {name} has left')
    return done.stdout


def run_command(host):
    out = run(host, 'run_command', host.template(host.fast_kernel), 'sh', '-c', 'echo $((6 * 7)); exit 3')
    check(re.fullmatch(r'42\nstatus 3, \d+\.\d ms of CPU, \d+\.\d MiB of memory\n', out), f'it says {out!r}')


def stream_output(host):
    out = run(host, 'stream_output', host.template(host.fast_kernel))
    check(re.fullmatch(r'runs as PID \d+ of the guest\nline 1\nline 2\nline 3\nline 4\nline 5\n'
                       r'after 5 lines: unavailable\n', out), f'it says {out!r}')


def background_server(host):
    out = run(host, 'background_server', host.template(host.fast_kernel))
    check(out.startswith('HTTP/1.0 200 OK') and '\n\nit works\n' in out, f'it says {out!r}')
    check_equal(out.count('"GET /hello HTTP/1'), 2, 'requests in its log')


def copy_files(host):
    path = os.path.join(host.directory('copy-files'), 'lines')
    with open(path, 'w', encoding='utf-8') as file:
        file.write('pear\napple\nfig\n')
    lines = run(host, 'copy_files', host.template(host.fast_kernel), path).splitlines()
    check_equal((sorted(lines[:2]), lines[2:]),
                (['input: 15 bytes, mode 644', 'output: 15 bytes, mode 644'], ['apple', 'fig', 'pear']), 'it says')


def many_sandboxes(host):
    lines = run(host, 'many_sandboxes', host.template(host.fast_kernel), '3').splitlines()
    check_equal(lines[1::2], [f'{i}: thread {i}' for i in range(3)], 'what the shared sandbox said')
    own = {re.fullmatch(r'\d: ([0-9a-f]{32})', line).group(1) for line in lines[0::2]}
    check_equal(len(own), 3, 'machine IDs')


def keep_state(host):
    out = run(host, 'keep_state', host.template(host.fast_kernel))
    check_equal(out, 'hello from /tmp/out\n42\nZeroDivisionError: division by zero\n2 files, 22 bytes\n', 'it says')


def limit_use(host):
    out = run(host, 'limit_use', host.template(host.fast_kernel))
    check(re.fullmatch(r'with 20 processes: refused\nwith 200 processes: started\n'
                       r'a disk of 2048 MiB, \d+ processes of at most 200\n', out), f'it says {out!r}')


TESTS = [
    ('example-limit-use', limit_use),
    ('example-keep-state', keep_state),
    ('example-run-command', run_command),
    ('example-stream-output', stream_output),
    ('example-background-server', background_server),
    ('example-copy-files', copy_files),
    ('example-many-sandboxes', many_sandboxes),
]
