"""The little of ELF that is needed: whether a program is static, and what a module says of itself."""

import struct

from guest_image.failure import Failure

HEADER = struct.Struct('<16sHHIQQQIHHHHHH')
PROGRAM = struct.Struct('<IIQQQQQQ')
SECTION = struct.Struct('<IIQQQQIIQQ')
EM_X86_64 = 62
PT_INTERP = 3


def parse_header(path, data):
    if len(data) < HEADER.size or data[:6] != b'\x7fELF\x02\x01':
        raise Failure('invalid_argument', path, 'not a 64-bit little-endian ELF file')
    fields = HEADER.unpack_from(data)
    if fields[2] != EM_X86_64:
        raise Failure('invalid_argument', path, f'not for x86-64 (machine {fields[2]})')
    return fields


def check_static(path):
    """Fails unless `path` is an x86-64 program that needs no loader."""
    with open(path, 'rb') as source:
        data = source.read()
    fields = parse_header(path, data)
    offset, size, count = fields[5], fields[9], fields[10]
    for index in range(count):
        at = offset + index * size
        if size < PROGRAM.size or at + PROGRAM.size > len(data):
            raise Failure('invalid_argument', path, 'truncated: its program headers are cut off')
        if PROGRAM.unpack_from(data, at)[0] == PT_INTERP:
            raise Failure('invalid_argument', path, 'not static; the initramfs has no libraries')


def module_info(path):
    """The values of each key in a kernel module's .modinfo section: {'depends': ['virtio'], ...}."""
    with open(path, 'rb') as source:
        data = source.read()
    fields = parse_header(path, data)
    table, size, count, names_index = fields[6], fields[11], fields[12], fields[13]
    try:
        sections = [SECTION.unpack_from(data, table + index * size) for index in range(count)]
        names = sections[names_index]
        for section in sections:
            start = names[4] + section[0]
            if data[start:data.index(b'\0', start)] == b'.modinfo':
                return parse_module_info(data[section[4]:section[4] + section[5]])
    except (struct.error, IndexError, ValueError) as error:
        raise Failure('corrupt', path, 'its section table does not make sense') from error
    raise Failure('corrupt', path, 'a kernel module without .modinfo')


def parse_module_info(section):
    info = {}
    for entry in section.split(b'\0'):
        key, equals, value = entry.decode(errors='replace').partition('=')
        if equals:
            info.setdefault(key, []).append(value)
    return info
