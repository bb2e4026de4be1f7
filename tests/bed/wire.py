"""Frames between tests/bed/run and the server inside the bed: type (1 byte), length (u32), payload.

Client: HELLO (JSON: token, op, argv, cwd, env), STDIN, STDIN_END, SIGNAL (JSON number), KILL.
Server: STDOUT, STDERR, ACK (JSON: bytes of stdin taken), EXIT (JSON: code | signal | error).
"""
import json
import struct

HELLO, STDIN, STDIN_END, SIGNAL, KILL = b"h", b"i", b"I", b"s", b"k"
STDOUT, STDERR, ACK, EXIT = b"o", b"e", b"a", b"x"

CHUNK = 64 * 1024  # bytes in a data frame at most
STDIN_WINDOW = 256 * 1024  # bytes of stdin under way at most: no more than this piles up in the server
MAX_FRAME = 4 * 1024 * 1024  # an environment may be large
_HEAD = struct.Struct(">cI")


def frame(kind, payload=b""):
    return _HEAD.pack(kind, len(payload)) + payload


def json_frame(kind, value):
    return frame(kind, json.dumps(value).encode())


class Reader:
    """Cuts a byte stream into frames."""

    def __init__(self):
        self._bytes = bytearray()

    def feed(self, data):
        self._bytes += data

    def frames(self):
        while len(self._bytes) >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._bytes)
            if length > MAX_FRAME:
                raise ValueError(f"frame of {length} bytes, {MAX_FRAME} allowed")
            end = _HEAD.size + length
            if len(self._bytes) < end:
                return
            payload = bytes(self._bytes[_HEAD.size:end])
            del self._bytes[:end]
            yield kind, payload
