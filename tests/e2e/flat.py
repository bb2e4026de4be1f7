"""FlatBuffers (https://flatbuffers.dev/flatbuffers_internals.html), as much as Spore's protocols need.

Written from the format's description, apart from the library that Spore uses: two that agree.
"""

import struct

# Of a scalar field: how struct packs it.
U8, U16, U32, U64, I32 = '<B', '<H', '<I', '<Q', '<i'


class Writer:
    """One buffer, laid out forwards: each object before those that it refers to.

    A table is a dict {field number: value}: (format, number), str, bytes, [str] or a dict.
    """

    def __init__(self, identifier, size_prefixed=False):
        self.bytes = bytearray(4 if size_prefixed else 0)
        self.start = len(self.bytes)
        self.bytes += bytes(4) + identifier

    def finish(self, root):
        self._refer(self.start, self._table(root))
        if self.start:
            struct.pack_into(U32, self.bytes, 0, len(self.bytes) - self.start)
        return bytes(self.bytes)

    def _align(self, size):
        self.bytes += bytes(-len(self.bytes) % size)

    def _refer(self, place, target):
        struct.pack_into(U32, self.bytes, place, target - place)

    def _table(self, fields):
        slots = max(fields, default=-1) + 1
        self._align(2)
        vtable = len(self.bytes)
        self.bytes += bytes(4 + 2 * slots)
        self._align(8)
        table = len(self.bytes)
        self.bytes += struct.pack(I32, table - vtable)
        later = []
        for number, value in sorted(fields.items()):
            scalar = isinstance(value, tuple)
            size = struct.calcsize(value[0]) if scalar else 4
            self._align(size)
            struct.pack_into(U16, self.bytes, vtable + 4 + 2 * number, len(self.bytes) - table)
            if scalar:
                self.bytes += struct.pack(*value)
            else:
                later.append((len(self.bytes), value))
                self.bytes += bytes(4)
        struct.pack_into('<HH', self.bytes, vtable, 4 + 2 * slots, len(self.bytes) - table)
        for place, value in later:
            self._refer(place, self._object(value))
        return table

    def _object(self, value):
        if isinstance(value, dict):
            return self._table(value)
        self._align(4)
        here = len(self.bytes)
        if isinstance(value, list):
            self.bytes += struct.pack(U32, len(value)) + bytes(4 * len(value))
            for index, each in enumerate(value):
                self._refer(here + 4 + 4 * index, self._object(each))
        else:
            data = value.encode() + b'\0' if isinstance(value, str) else value
            self.bytes += struct.pack(U32, len(value.encode() if isinstance(value, str) else value))
            self.bytes += data
        return here


class Table:
    """A table of a buffer that the sender is trusted with: field by number."""

    def __init__(self, buffer, position):
        self.buffer = buffer
        self.position = position
        self.vtable = position - struct.unpack_from(I32, buffer, position)[0]
        self.vtable_size = struct.unpack_from(U16, buffer, self.vtable)[0]

    @classmethod
    def root(cls, buffer, start=0):
        return cls(buffer, start + struct.unpack_from(U32, buffer, start)[0])

    def _place(self, number):
        entry = 4 + 2 * number
        if entry >= self.vtable_size:
            return None
        offset = struct.unpack_from(U16, self.buffer, self.vtable + entry)[0]
        return self.position + offset if offset else None

    def _target(self, number):
        place = self._place(number)
        return None if place is None else place + struct.unpack_from(U32, self.buffer, place)[0]

    def scalar(self, number, kind, default=0):
        place = self._place(number)
        return default if place is None else struct.unpack_from(kind, self.buffer, place)[0]

    def table(self, number):
        target = self._target(number)
        return None if target is None else Table(self.buffer, target)

    def bytes(self, number):
        target = self._target(number)
        if target is None:
            return b''
        size = struct.unpack_from(U32, self.buffer, target)[0]
        return bytes(self.buffer[target + 4:target + 4 + size])

    def text(self, number):
        return self.bytes(number).decode('utf-8', 'replace')
