"""A user of the host without rights, who has a home and calls spore there."""

import os
import subprocess

NUMBER = 12345


class PlainUser:
    def __init__(self, spore, home, environment=None):
        self.spore = spore
        self.home = home
        self.session = ()  # a command that runs others where this user is
        self.environment = {**(environment or os.environ), 'HOME': home, 'SPORE_HOME': f'{home}/spore',
                            'SPORE_CGROUP': 'none'}
        self.environment.pop('XDG_RUNTIME_DIR', None)

    def command(self, *words):
        """Root's, for these words of spore's command line."""
        return [*self.session, 'setpriv', f'--reuid={NUMBER}', f'--regid={NUMBER}', '--clear-groups', self.spore, *words]

    def call(self, *words, limit_s=120):
        """The process, which has ended."""
        return subprocess.run(self.command(*words), cwd='/', env=self.environment, stdin=subprocess.DEVNULL,
                              capture_output=True, check=False, text=True, timeout=limit_s)

    def give_home(self):
        """What root has put there is this user's."""
        subprocess.run(['chown', '-R', f'{NUMBER}:{NUMBER}', self.home], check=True)
