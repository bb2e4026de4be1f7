"""Packs a directory into an ext4 image, just big enough, without mounting anything."""

import os
import tempfile

from guest_image.command import run

BLOCK_BYTES = 4096
INODE_BYTES = 256
# One inode for 8 KiB: repositories and package directories have many small files, and a root that
# is grown keeps this ratio.
BYTES_PER_INODE = 8192
JOURNAL_BYTES = 8 << 20
ROUND_BYTES = 4 << 20
FEATURES = ('none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,'
            'sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum')


def make(root, path, free_space, uuid):
    """Makes the image `path` of the tree `root`, `free_space` bytes more than it needs.

    `uuid` names the file system and seeds its directory hashes; neither is a secret.
    """
    size = needed_bytes(root) + free_space
    # Inode tables and bitmaps take a share of the whole, and so does each group's overhead.
    size += size // BYTES_PER_INODE * INODE_BYTES + size // 128 + JOURNAL_BYTES
    size += -size % ROUND_BYTES
    with tempfile.NamedTemporaryFile(prefix='mke2fs-') as settings:
        # An empty configuration: the image is the same whatever this machine's mke2fs prefers.
        environment = {**os.environ, 'MKE2FS_CONFIG': settings.name, 'LC_ALL': 'C'}
        run(['mke2fs', '-q', '-F', '-t', 'ext4', '-b', str(BLOCK_BYTES), '-I', str(INODE_BYTES),
             '-i', str(BYTES_PER_INODE), '-m', '0', '-O', FEATURES,
             '-J', f'size={JOURNAL_BYTES >> 20}', '-L', 'spore-root', '-U', uuid,
             # Written now, so that no guest's kernel zeroes tables behind its own back.
             '-E', f'lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,hash_seed={uuid}',
             '-d', root, path, f'{size >> 10}k'], 'root file system', env=environment)
    run(['e2fsck', '-f', '-n', path], 'root file system')


def needed_bytes(root):
    """What the files of `root` take in blocks."""
    needed = 0
    seen = set()
    for base, _, names in os.walk(root):
        needed += BLOCK_BYTES
        for name in names:
            status = os.lstat(os.path.join(base, name))
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                needed += status.st_size + -status.st_size % BLOCK_BYTES
    return needed
