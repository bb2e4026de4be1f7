"""Recipes: JSON files that say what a root file system is made of (README.md describes the format)."""

import hashlib
import json
import os
import re

from guest_image.apt import PACKAGE_NAME
from guest_image.failure import Failure

FORMAT = 1
BUILT_IN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'recipes')
SUITE = re.compile(r'[a-z]+')
SIZE = re.compile(r'([1-9][0-9]{0,6})([KMG])')
UNITS = {'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}
MAX_RECIPE_BYTES = 1 << 20
MAX_FREE_SPACE_BYTES = 1 << 40
MAX_EXTENDS = 8


class File:
    """A file that a recipe puts into the root: its bytes, and how it lies there."""

    def __init__(self, path, data, mode, uid, gid):
        self.path, self.data, self.mode, self.uid, self.gid = path, data, mode, uid, gid


class Recipe:
    """A checked recipe. `base` is 'debian' or 'busybox'; `suite` is None for busybox."""

    def __init__(self, name, base, suite, packages, files, run, free_space):
        self.name, self.base, self.suite = name, base, suite
        self.packages, self.files, self.run = packages, files, run
        self.free_space = free_space

    def fingerprint(self):
        """A hash of everything that the recipe says, the contents of its files included."""
        text = json.dumps([self.base, self.suite, self.packages, self.run, self.free_space,
                           [[f.path, hashlib.sha256(f.data).hexdigest(), f.mode, f.uid, f.gid]
                            for f in self.files]])
        return hashlib.sha256(text.encode()).hexdigest()


def load(name, extra_packages=()):
    """The recipe `name`: a built-in one's name, or the path of a file (it has a / or ends in .json)."""
    path = name
    if '/' not in name and not name.endswith('.json'):
        path = os.path.join(BUILT_IN, f'{name}.json')
        if not os.path.exists(path):
            known = ', '.join(sorted(each[:-5] for each in os.listdir(BUILT_IN)))
            raise Failure('not_found', f'recipe {name!r}', f'not one of {known}, and not a path')
    layers = read_layers(path)
    merged = {'base': None, 'suite': None, 'packages': [], 'files': [], 'run': [],
              'free_space': 64 << 20}
    for layer in layers:
        for key in ('base', 'suite', 'free_space'):
            if key in layer:
                merged[key] = layer[key]
        for key in ('packages', 'files', 'run'):
            merged[key] += layer.get(key, [])
    for package in extra_packages:
        check(PACKAGE_NAME.fullmatch(package), 'package', repr(package), 'not a package name')
    merged['packages'] = sorted({*merged['packages'], *extra_packages})
    check(merged['base'], 'recipe', path, "has neither 'base' nor 'extends'")
    if merged['base'] == 'busybox':
        for key in ('packages', 'run', 'suite'):
            check(not merged[key], 'recipe', path, f"base busybox takes no {key}")
    else:
        merged['suite'] = merged['suite'] or 'bookworm'
    return Recipe(name if path != name else os.path.basename(path), **merged)


def read_layers(path):
    """The recipes that `path` extends, outermost last."""
    layers = []
    while path:
        check(len(layers) < MAX_EXTENDS, 'recipe', path, f'extends more than {MAX_EXTENDS} deep')
        layer = read(path)
        layers.insert(0, layer)
        path = layer.get('extends')
    return layers


def read(path):
    try:
        with open(path, 'rb') as source:
            text = source.read(MAX_RECIPE_BYTES + 1)
    except OSError as error:
        code = 'not_found' if isinstance(error, FileNotFoundError) else 'invalid_argument'
        raise Failure(code, f'recipe {path}', error.strerror) from error
    check(len(text) <= MAX_RECIPE_BYTES, 'recipe', path, f'is over {MAX_RECIPE_BYTES} bytes')
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise Failure('invalid_argument', f'recipe {path}', f'not JSON: {error}') from error
    check(isinstance(raw, dict), 'recipe', path, 'is not a JSON object')
    if raw.get('format') != FORMAT:
        raise Failure('version_mismatch', f'recipe {path}',
                      f"'format' is {raw.get('format')!r}; this Spore reads {FORMAT}")
    return check_fields(path, raw)


def check_fields(path, raw):
    unknown = raw.keys() - {'format', 'about', *FIELDS}
    check(not unknown, 'recipe', path, f'unknown field {", ".join(sorted(unknown))}')
    layer = {}
    for key, reader in FIELDS.items():
        if key in raw:
            layer[key] = reader(path, raw[key])
    check(not ('base' in layer and 'extends' in layer), 'recipe', path,
          "has both 'base' and 'extends'")
    return layer


def read_base(path, value):
    check(value in ('debian', 'busybox'), 'recipe', path,
          f"'base' is {value!r}, not debian or busybox")
    return value


def read_extends(path, value):
    check(isinstance(value, str) and value, 'recipe', path, "'extends' is not a name or a path")
    if '/' not in value and not value.endswith('.json'):
        return os.path.join(BUILT_IN, f'{value}.json')
    return os.path.join(os.path.dirname(os.path.abspath(path)), value)


def read_suite(path, value):
    check(isinstance(value, str) and SUITE.fullmatch(value), 'recipe', path,
          f"'suite' is {value!r}, not a release's code name")
    return value


def read_strings(key):
    def read_them(path, value):
        check(isinstance(value, list) and all(isinstance(each, str) and each for each in value),
              'recipe', path, f"'{key}' is not a list of texts")
        if key == 'packages':
            for each in value:
                check(PACKAGE_NAME.fullmatch(each), 'recipe', path, f'{each!r}: not a package name')
        return value
    return read_them


def read_size(path, value):
    match = SIZE.fullmatch(value) if isinstance(value, str) else None
    check(match, 'recipe', path, f"'free_space' is {value!r}, not a size as 64M")
    size = int(match[1]) * UNITS[match[2]]
    check(size <= MAX_FREE_SPACE_BYTES, 'recipe', path, f"'free_space' {value} is over 1024G")
    return size


def read_files(path, value):
    check(isinstance(value, list), 'recipe', path, "'files' is not a list")
    return [read_file_entry(path, each) for each in value]


def read_file_entry(path, entry):
    check(isinstance(entry, dict) and
          not entry.keys() - {'path', 'source', 'content', 'mode', 'owner'}, 'recipe', path,
          f"a file has 'path', 'source' or 'content', 'mode', 'owner': {entry!r:.80}")
    inside = entry.get('path')
    check(isinstance(inside, str) and inside.startswith('/') and
          os.path.normpath(inside) == inside and inside != '/', 'recipe', path,
          f'file {inside!r}: not a plain absolute path')
    check(('source' in entry) != ('content' in entry), 'recipe', path,
          f"file {inside}: needs one of 'source' and 'content'")
    mode = entry.get('mode', '0644')
    check(isinstance(mode, str) and re.fullmatch(r'0?[0-7]{3,4}', mode), 'recipe', path,
          f'file {inside}: mode {mode!r} is not octal')
    owner = entry.get('owner', '0:0')
    check(isinstance(owner, str) and re.fullmatch(r'[0-9]{1,9}:[0-9]{1,9}', owner), 'recipe',
          path, f"file {inside}: owner {owner!r} is not UID:GID")
    uid, gid = map(int, owner.split(':'))
    return File(inside, file_data(path, inside, entry), int(mode, 8), uid, gid)


def file_data(path, inside, entry):
    key = 'source' if 'source' in entry else 'content'
    check(isinstance(entry[key], str), 'recipe', path, f"file {inside}: '{key}' is not a text")
    if key == 'content':
        return entry[key].encode()
    source = os.path.join(os.path.dirname(os.path.abspath(path)), entry[key])
    try:
        with open(source, 'rb') as stream:
            return stream.read()
    except OSError as error:
        code = 'not_found' if isinstance(error, FileNotFoundError) else 'invalid_argument'
        raise Failure(code, f'recipe {path}: file {source}', error.strerror) from error


def check(condition, kind, name, why):
    if not condition:
        raise Failure('invalid_argument', f'{kind} {name}', why)


FIELDS = {
    'base': read_base,
    'extends': read_extends,
    'suite': read_suite,
    'packages': read_strings('packages'),
    'files': read_files,
    'run': read_strings('run'),
    'free_space': read_size,
}
