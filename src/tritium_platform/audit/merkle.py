"""RFC 6962 hashing of a Merkle tree: leaves, nodes, roots.

The 0x00 and 0x01 prefixes keep a node from passing for a leaf (a second pre-image).
"""

from __future__ import annotations

import hashlib
from typing import Protocol

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


class HashReader(Protocol):
    """Gives the root of the complete subtree of 2^level leaves that starts at leaf index * 2^level."""

    def read_hash(self, *, level: int, index: int) -> bytes:
        """Return 32 bytes; PlatformError if the log cannot give them."""
        ...


def leaf_hash(data: bytes) -> bytes:
    """Hash a leaf: SHA-256(0x00 || data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash an inner node: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def split_point(size: int) -> int:
    """Return the largest power of two smaller than `size` (size >= 2)."""
    return 1 << ((size - 1).bit_length() - 1)


def range_root(reader: HashReader, *, start: int, end: int) -> bytes:
    """Hash the leaves start..end-1, where start is a multiple of the tree's split at that height."""
    size = end - start
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return reader.read_hash(level=level, index=start >> level)
    middle = start + split_point(size)
    left = range_root(reader, start=start, end=middle)
    return node_hash(left, range_root(reader, start=middle, end=end))


def tree_root(reader: HashReader, *, size: int) -> bytes:
    """Hash the first `size` leaves; the empty tree has SHA-256 of nothing."""
    return EMPTY_ROOT if size == 0 else range_root(reader, start=0, end=size)


def reduce_complete(hashes: list[bytes]) -> bytes:
    """Hash a complete subtree whose 2^k nodes of one level are given."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
    return hashes[0]
