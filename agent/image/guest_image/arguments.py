"""Command-line parsing by the contract of Spore's command line: usage errors are one line, status 64."""

import argparse
import os
import sys

from guest_image.failure import EXIT_STATUS


class Parser(argparse.ArgumentParser):
    def error(self, message):
        print(f'spore: {self.prog}: {message}', file=sys.stderr)
        sys.exit(EXIT_STATUS['invalid_argument'])


def default_home():
    """Where Spore keeps its state."""
    home = os.environ.get('SPORE_HOME')
    if home:
        return home
    if os.geteuid() == 0:
        return '/var/lib/spore'
    data = os.environ.get('XDG_DATA_HOME') or os.path.expanduser('~/.local/share')
    return os.path.join(data, 'spore')


def split_list(text):
    """'a,b' as ['a', 'b']; for the empty parts of 'a,,b' there is no meaning."""
    parts = text.split(',')
    if not all(parts):
        raise argparse.ArgumentTypeError(f'{text!r} has an empty part')
    return parts
