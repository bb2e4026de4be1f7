"""Guest kernels from Debian's packages, kept by the hash of what they are made from."""

import hashlib
import json
import os
import shutil

from guest_image import kernel_stock, kernel_tuned
from guest_image.apt import file_sha256
from guest_image.failure import Failure, temporary_directory

NAMES = ('stock', 'tuned')
MAKERS = {'stock': kernel_stock, 'tuned': kernel_tuned}
FORMAT = 1
DESCRIPTION = 'kernel.json'


def fingerprint(name):
    """A hash of what kernel `name` would be made from now: packages, configuration, scripts."""
    digest = hashlib.sha256()
    maker = MAKERS[name]
    for part in (f'{FORMAT}', *maker.inputs()):
        digest.update(part.encode() + b'\0')
    digest.update(file_sha256(maker.__file__).encode())
    return digest.hexdigest()


def cached(name, cache):
    """The directory of kernel `name` if it is made already, else None."""
    try:
        path = directory(name, cache, fingerprint(name))
    except Failure as failure:
        if failure.code == 'not_found':
            return None  # its package is not in Debian's lists here, so it was not made from it
        raise
    return path if os.path.exists(os.path.join(path, DESCRIPTION)) else None


def directory(name, cache, mark):
    return os.path.join(cache, 'kernels', f'{name}-{mark[:16]}')


def make(name, cache, progress):
    """The directory of kernel `name`, made now if it is not in the cache.

    It has vmlinux, vmlinuz, modules/*.ko, modules.list (in the order to load) and kernel.json.
    """
    if name not in NAMES:
        raise Failure('invalid_argument', f'kernel {name!r}', f'not one of {", ".join(NAMES)}')
    mark = fingerprint(name)
    final = directory(name, cache, mark)
    if os.path.exists(os.path.join(final, DESCRIPTION)):
        return final
    with temporary_directory(os.path.join(cache, 'kernels'), f'.{name}-') as work:
        out = os.path.join(work, 'kernel')
        os.makedirs(os.path.join(out, 'modules'))
        facts = MAKERS[name].make(work, out, cache, progress)
        describe(name, out, mark, facts)
        if os.path.isdir(final):
            shutil.rmtree(final)  # without a description: a leftover
        os.rename(out, final)
    return final


def describe(name, out, mark, facts):
    """Writes kernel.json: it is the last file, so that its presence means that all is there."""
    files = {}
    for base, _, names in os.walk(out):
        for each in names:
            path = os.path.join(base, each)
            files[os.path.relpath(path, out)] = {'size': os.path.getsize(path),
                                                 'sha256': file_sha256(path)}
    description = {'format': FORMAT, 'name': name, 'inputs_sha256': mark, **facts,
                   'files': dict(sorted(files.items()))}
    with open(os.path.join(out, DESCRIPTION), 'w', encoding='utf-8') as target:
        json.dump(description, target, indent=4)
        target.write('\n')


def read_description(path):
    with open(os.path.join(path, DESCRIPTION), encoding='utf-8') as source:
        return json.load(source)
