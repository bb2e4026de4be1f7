"""Debian packages by the machine's own apt: its sources, its keys, its proxies; no mirror is named here."""

import glob
import hashlib
import os
import re
import shutil
import subprocess

from guest_image.command import output, run
from guest_image.failure import Failure, temporary_directory

KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
PACKAGE_NAME = re.compile(r'[a-z0-9][a-z0-9+.-]+')
# Settings of the machine's apt without which its downloads may not work.
CARRIED_SETTINGS = re.compile(
    r'Acquire::(Check-Date|Check-Valid-Until|Retries|ForceIPv[46]'
    r'|https?::(Proxy|Proxy-Auto-Detect|Timeout|CaInfo|Verify-Peer|Verify-Host)(::.*)?'
    r'|https?::Proxy::.*)')


_known = {}


class Package:
    """One version of a package, as the machine's package lists know it."""

    def __init__(self, stanza):
        self.name = stanza['Package']
        self.version = stanza['Version']
        self.sha256 = stanza['SHA256']
        self.depends = stanza.get('Depends', '')


def file_sha256(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def parse_stanza(text):
    """The fields of one stanza of a control file; continuation lines are left out."""
    fields = {}
    for line in text.splitlines():
        if not line.strip():
            break
        if not line[0].isspace() and ':' in line:
            key, value = line.split(':', 1)
            fields[key] = value.strip()
    return fields


def find(name):
    """The newest version of package `name` that the machine's sources have."""
    return find_all([name])[0]


def find_all(names):
    """As `find`, for several names. Asked once: reading the package lists takes apt a while."""
    unknown = [name for name in names if name not in _known]
    if unknown:
        # It fails when one name is unknown, having shown the others. All versions, the newest first: one that
        # is installed here from elsewhere is in no source, and has no checksum.
        shown = subprocess.run(['apt-cache', 'show', '--all-versions', '--', *unknown],
                               stdin=subprocess.DEVNULL, capture_output=True, text=True,
                               errors='replace', check=False).stdout
        for stanza in map(parse_stanza, shown.split('\n\n')):
            if {'Package', 'Version', 'SHA256'} <= stanza.keys():
                _known.setdefault(stanza['Package'], Package(stanza))
    for name in names:
        if name not in _known:
            raise Failure('not_found', f'package {name}',
                          "not in this machine's package lists (apt-get update renews them)")
    return [_known[name] for name in names]


def fetch(package, cache, progress):
    """The .deb of `package` in `cache`/debs, downloaded if need be, its checksum checked."""
    debs = os.path.join(cache, 'debs')
    path = os.path.join(debs, f'{package.name}_{package.version.replace(":", "%3a")}.deb')
    if os.path.exists(path) and file_sha256(path) == package.sha256:
        return path
    progress.step(f'downloading {package.name} {package.version}')
    with temporary_directory(debs, '.download-') as directory:
        # As root apt would download as user _apt, who may not write here.
        run(['apt-get', '-q', '-o', 'APT::Sandbox::User=root', 'download', '--',
             f'{package.name}={package.version}'], f'package {package.name}', cwd=directory)
        found = glob.glob(os.path.join(glob.escape(directory), '*.deb'))
        if len(found) != 1 or file_sha256(found[0]) != package.sha256:
            raise Failure('corrupt', f'package {package.name} {package.version}',
                          'the downloaded file does not have the checksum of the package lists')
        os.rename(found[0], path)
    return path


def unpack(deb, directory):
    run(['dpkg-deb', '--extract', deb, directory], f'package {os.path.basename(deb)}')


def debian_sources(suite):
    """(URI, suite) of the Debian archives this machine uses for `suite`, updates included."""
    fields = '$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)'
    found = []
    for line in output(['apt-get', 'indextargets', '--format', fields, 'Created-By: Packages'],
                       'apt sources').splitlines():
        origin, uri, release, component = line.split('|')
        wanted = release in (suite, f'{suite}-updates', f'{suite}-security')
        if origin == 'Debian' and component == 'main' and wanted and (uri, release) not in found:
            found.append((uri, release))
    if not any(release == suite for _, release in found):
        raise Failure('unavailable', f'Debian {suite}',
                      "no source of this machine's apt has it (or its lists are not there yet: "
                      'apt-get update)')
    return found


def source_lines(sources):
    """`sources` for mmdebstrap: signed by Debian's own keys, where the machine has them apart."""
    signed = f'[signed-by={KEYRING}] ' if os.path.exists(KEYRING) else ''
    return [f'deb {signed}{uri} {release} main' for uri, release in sources]


def guest_source_lines(sources):
    """`sources` for the guest: the same, without what may be a password of this machine's."""
    return [f'deb {re.sub(r"://[^/@]*@", "://", uri)} {release} main' for uri, release in sources]


def carried_settings():
    """The machine's apt settings that downloading needs, as lines of a configuration file."""
    lines = output(['apt-config', 'dump', '--no-empty', 'Acquire'], 'apt settings').splitlines()
    return [line for line in lines if CARRIED_SETTINGS.fullmatch(line.split(' ', 1)[0])]


def drop_cached_archives(directory):
    """Removes what mmdebstrap's cache of .deb files leaves beside them."""
    for name in ('lock', 'partial'):
        path = os.path.join(directory, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.unlink(path)
