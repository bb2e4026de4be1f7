"""Writes cpio archives of the kind that Linux unpacks as initramfs (newc, buffer-format.rst).

No file system and no privileges are involved, so device nodes are no problem, and the same entries
give the same bytes: no times, no inode numbers of this machine, root owns everything.
"""

import stat

MAGIC = '070701'
TRAILER = 'TRAILER!!!'
# The longest path that is safe to give: Linux's PATH_MAX counts the zero byte.
MAX_NAME_BYTES = 4095
MAX_FILE_BYTES = 0xFFFFFFFF


class Archive:
    """Collects entries; `data()` is the archive. Paths are relative to the root, as 'etc/spore'."""

    def __init__(self):
        self._entries = {}

    def directory(self, path, mode=0o755):
        self._add(path, stat.S_IFDIR | mode)

    def file(self, path, data, mode=0o644):
        self._add(path, stat.S_IFREG | mode, data=data)

    def symlink(self, path, target):
        self._add(path, stat.S_IFLNK | 0o777, data=target.encode())

    def character_device(self, path, major, minor, mode=0o600):
        self._add(path, stat.S_IFCHR | mode, device=(major, minor))

    def _add(self, path, mode, data=b'', device=(0, 0)):
        path = path.strip('/')
        if not 0 < len(path.encode()) <= MAX_NAME_BYTES or len(data) > MAX_FILE_BYTES:
            raise ValueError(f'{path!r} does not fit into a cpio archive')
        if path in self._entries:
            raise ValueError(f'{path!r} is there twice')
        parent = path.rpartition('/')[0]
        if parent and parent not in self._entries:
            self.directory(parent)
        self._entries[path] = (mode, data, device)

    def data(self):
        # Sorted, a directory stands before what is in it, as the kernel wants it.
        out = bytearray()
        for inode, path in enumerate(sorted(self._entries), start=1):
            self._append(out, inode, path, *self._entries[path])
        self._append(out, 0, TRAILER, 0, b'', (0, 0))
        return bytes(out)

    @staticmethod
    def _append(out, inode, path, mode, data, device):
        name = path.encode() + b'\0'
        links = 2 if stat.S_ISDIR(mode) else 1
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name), 0)
        out += MAGIC.encode() + b''.join(b'%08x' % field for field in fields) + name
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
