"""The attacking guest of tests/hostile on this host's KVM, where its ring 0 and its nested pages are not shadows."""

import os
import subprocess

from host import Skipped, check

OPERATIONS = '300000'


def attacks_in_vain(host):
    program = os.path.normpath(os.path.join(os.path.dirname(host.spore), '../../tests/hostile/hostile_test'))
    if not os.path.exists(program):
        raise Skipped(f'{program}: not built')
    done = subprocess.run([program], env=dict(os.environ, SPORE_HOSTILE_OPERATIONS=OPERATIONS), capture_output=True,
                          timeout=1200, text=True, check=False)
    check(done.returncode == 0 and '[  PASSED  ] 5 tests' in done.stdout, done.stdout[-2000:])


TESTS = [('hostile-guest', attacks_in_vain)]
