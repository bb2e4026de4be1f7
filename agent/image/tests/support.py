"""What the tests share: where things are, and running the builder as a person would."""

import os
import subprocess
import tempfile
import types
import unittest

IMAGE_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
settings = types.SimpleNamespace(scratch=None, home=None, agent=None)
# Longer than any step takes on a busy machine, in seconds.
LIMIT_S = 1800

TINY_PROGRAM = '.globl _start\n_start: movl $60, %eax\nxorl %edi, %edi\nsyscall\n'


def program(name, *arguments, limit_s=LIMIT_S, **options):
    """Runs one of agent/image's programs to its end."""
    return subprocess.run([os.path.join(IMAGE_DIRECTORY, name), *arguments], capture_output=True,
                          text=True, timeout=limit_s, check=False, **options)


def build(*arguments, home=None, agent=None, name='busybox', recipe='busybox'):
    return program('build', '--name', name, '--recipe', recipe, '--agent', agent or static_agent(),
                   '--home', home or settings.home, *arguments)


def static_agent(variant=0):
    """A static x86-64 program to stand for the agent: the real one if it was named, else a tiny one
    (whose bytes differ by `variant`)."""
    if settings.agent and not variant:
        return settings.agent
    path = os.path.join(settings.scratch, f'agent-{variant}')
    if not os.path.exists(path):
        subprocess.run(['gcc', '-nostdlib', '-static', '-o', path, '-x', 'assembler', '-'],
                       input=TINY_PROGRAM + f'.byte {variant}\n', text=True, check=True)
    return path


def scratch_directory():
    return tempfile.mkdtemp(dir=settings.scratch)


def write(path, text):
    with open(path, 'w', encoding='utf-8') as target:
        target.write(text)
    return path


def expect_error(done, status, *words):
    """The contract of errors: one line, `spore: <what>: <why>`, with these words and status."""
    assert done.returncode == status, f'{done.returncode} not {status}: {done.stderr}'
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith('spore: ') and lines[0].count(': ') >= 2, lines
    for word in words:
        assert word in lines[0], f'{word!r} is not in {lines[0]!r}'
    assert 'Traceback' not in done.stderr


def need_root():
    if os.geteuid() != 0:
        raise unittest.SkipTest('needs root')


def tree(path):
    """Every path below `path`, relative to it."""
    found = []
    for base, directories, names in os.walk(path):
        found += [os.path.relpath(os.path.join(base, each), path) for each in directories + names]
    return sorted(found)
