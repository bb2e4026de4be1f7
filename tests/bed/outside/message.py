"""What the bed's programs say to people: lines on stderr that begin with `bed: `."""
import sys


class BedError(Exception):
    """A failure of the bed itself, told in one line (and console lines where there are any)."""


def say(message):
    print(f"bed: {message}", file=sys.stderr, flush=True)
