"""Failures a person reads: a stable word, one line, and the exit status of the command line's contract."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import sys
import tempfile

EXIT_STATUS = {
    'invalid_argument': 64,
    'corrupt': 65,
    'version_mismatch': 65,
    'not_found': 66,
    'host_unsupported': 69,
    'unavailable': 69,
    'internal': 70,
    'already_exists': 73,
    'resource_exhausted': 75,
    'timeout': 75,
    'permission_denied': 77,
}

ERRNO_CODES = {
    errno.ENOSPC: 'resource_exhausted',
    errno.EDQUOT: 'resource_exhausted',
    errno.EMFILE: 'resource_exhausted',
    errno.ENOMEM: 'resource_exhausted',
    errno.EACCES: 'permission_denied',
    errno.EPERM: 'permission_denied',
    errno.EROFS: 'permission_denied',
    errno.ENOENT: 'not_found',
    errno.ENOTDIR: 'invalid_argument',
    errno.EISDIR: 'invalid_argument',
    errno.EEXIST: 'already_exists',
}

# An image's name: 1-63 of a-z0-9-, no hyphen at either end.
NAME = re.compile(r'[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?')


class Failure(Exception):
    """What could not be done and why. `code` is one of EXIT_STATUS."""

    def __init__(self, code, what, why):
        super().__init__(f'{what}: {why}')
        self.code, self.what, self.why = code, what, why


class Interrupted(BaseException):
    """A signal asked us to stop; raised so that every `finally` cleans up."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


def run_command_line(command, json_errors=False):
    """Runs `command()` as a whole program: signals, errors and exit status by the contract."""

    def interrupt(number, _frame):
        # A second signal must not break off the cleaning up that the first one started.
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, interrupt)
    try:
        command()
        sys.stdout.flush()
        return 0
    except Interrupted as interrupted:
        report(json_errors, 'unavailable', 'image', 'interrupted')
        return 128 + interrupted.number
    except Failure as failure:
        report(json_errors, failure.code, failure.what, failure.why)
        return EXIT_STATUS[failure.code]
    except OSError as error:
        code = ERRNO_CODES.get(error.errno, 'internal')
        report(json_errors, code, error.filename or 'image', error.strerror or str(error))
        return EXIT_STATUS[code]


def report(json_errors, code, what, why):
    line = ' '.join(f'{what}: {why}'.split())
    if json_errors:
        print(json.dumps({'error': {'code': code, 'message': line, 'details': {}}}))
    else:
        print(f'spore: {line}', file=sys.stderr)


class Progress:
    """Steps of a long build, on stderr, and only when a person watches (or asked for them)."""

    def __init__(self, always=False):
        self.shown = always or sys.stderr.isatty()

    def step(self, text):
        if self.shown:
            print(f'  {text}', file=sys.stderr, flush=True)


def check_name(name):
    if not NAME.fullmatch(name):
        raise Failure('invalid_argument', f'image {name!r}',
                      'a name is 1 to 63 of a-z, 0-9 and -, with no hyphen at either end')


def need_root(what):
    if os.geteuid() != 0:
        raise Failure('permission_denied', what, 'needs root, to own the files of the guest')


@contextlib.contextmanager
def temporary_directory(parent, prefix):
    """A directory in `parent` that is gone afterwards, unless it was renamed away."""
    os.makedirs(parent, exist_ok=True)
    path = tempfile.mkdtemp(prefix=prefix, dir=parent)
    os.chmod(path, 0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
