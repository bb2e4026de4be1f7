"""Runs other programs so that they end with us, and their last words reach the person."""

import collections
import ctypes
import os
import shutil
import signal
import subprocess

from guest_image.failure import Failure

PR_SET_PDEATHSIG = 1
# How long a program may clean up after SIGTERM before it is killed, in seconds.
GRACE_S = 15

# Debian's package for each program that is not in every Debian system.
PACKAGES = {
    'mmdebstrap': 'mmdebstrap',
    'mke2fs': 'e2fsprogs',
    'e2fsck': 'e2fsprogs',
    'dpkg-deb': 'dpkg',
    'lz4': 'lz4',
    'make': 'make',
    'gcc': 'gcc',
    'bc': 'bc',
    'flex': 'flex',
    'bison': 'bison',
    'strip': 'binutils',
    'xz': 'xz-utils',
    'unshare': 'util-linux',
    'apt-get': 'apt',
    'apt-cache': 'apt',
}

_libc = ctypes.CDLL(None, use_errno=True)


def need_programs(*names):
    """Fails, naming the packages to install, when one of `names` is not in PATH."""
    os.environ['PATH'] = os.environ.get('PATH', '') + ':/usr/sbin:/sbin'
    missing = [name for name in names if not shutil.which(name)]
    if missing:
        packages = ' '.join(sorted({PACKAGES[name] for name in missing}))
        raise Failure('host_unsupported', 'program ' + ', '.join(missing),
                      f'not installed; install the package {packages}')


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run(argv, what, cwd=None, env=None, on_line=None):
    """Runs `argv` to its end. On failure raises `internal` with the last line that it wrote.

    `on_line` sees each line of its output. The program is ended when we are interrupted.
    """
    child = subprocess.Popen(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             start_new_session=True, preexec_fn=_die_with_parent,
                             text=True, errors='replace')
    tail = collections.deque(maxlen=200)
    try:
        for line in child.stdout:
            tail.append(line.rstrip())
            if on_line:
                on_line(line.rstrip())
        status = child.wait()
    except BaseException:
        end(child)
        raise
    if status != 0:
        raise Failure('internal', what, f'{os.path.basename(argv[0])} failed ({status}): '
                      + last_words(tail))
    return list(tail)


def end(child):
    """Ends a child and all of its session."""
    for number, grace in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, None)):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            pass
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGKILL:
            return


def last_words(lines):
    """The line that says why: the first one that calls itself an error, else the last.

    mmdebstrap's own errors only say that a command of it failed: what that said is the reason.
    """
    said = [line for line in lines if line.strip()]
    own = ('E: command failed', 'E: setup failed', 'E: run_')
    for line in said:
        if (line.startswith(('E: ', 'error: ', 'fatal: ')) or ' error: ' in line) and \
                not line.startswith(own):
            return line
    plain = [line for line in said if not line.startswith(('I: ', 'W: ', 'E: '))]
    return (plain or said or ['it said nothing'])[-1]


def output(argv, what):
    """What a short-running program prints; fails as `run` does."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors='replace', check=False)
    if done.returncode != 0:
        raise Failure('internal', what, f'{os.path.basename(argv[0])} failed '
                      f'({done.returncode}): ' + last_words(done.stderr.splitlines()))
    return done.stdout
