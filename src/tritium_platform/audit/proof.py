"""RFC 6962 proofs: this entry is in that log (inclusion); this log continues that log (consistency)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from tritium_platform.audit.merkle import HASH_BYTES, HashReader, node_hash, range_root, split_point
from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence


def inclusion_proof(reader: HashReader, *, index: int, size: int) -> list[bytes]:
    """Return the hashes that lead from leaf `index` to the root of the first `size` leaves, bottom up."""
    if not 0 <= index < size:
        raise ValidationError(f"There is no entry {index} in a log of {size} entries.")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + split_point(end - start)
        if index < middle:
            proof.append(range_root(reader, start=middle, end=end))
            end = middle
        else:
            proof.append(range_root(reader, start=start, end=middle))
            start = middle
    return proof[::-1]


def consistency_proof(reader: HashReader, *, old_size: int, new_size: int) -> list[bytes]:
    """Return the hashes that prove the log of `new_size` leaves begins with that of `old_size` (>= 1)."""
    if not 1 <= old_size <= new_size:
        raise ValidationError(f"There is no consistency proof from size {old_size} to size {new_size}.")
    proof: list[bytes] = []
    start, end = 0, new_size
    while end != old_size:
        middle = start + split_point(end - start)
        if old_size <= middle:
            proof.append(range_root(reader, start=middle, end=end))
            end = middle
        else:
            proof.append(range_root(reader, start=start, end=middle))
            start = middle
    if start:  # the old tree ends inside: its last complete subtree opens the proof
        proof.append(range_root(reader, start=start, end=end))
    return proof[::-1]


def verify_inclusion(*, index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """Tell whether the leaf hash stands at `index` in the tree of `size` leaves with this root."""
    if not 0 <= index < size or {len(leaf), len(root)} != {HASH_BYTES}:
        return False
    result = leaf
    remaining, last = list(proof), size - 1
    while last:
        if index & 1 or index < last:
            if not remaining:
                return False
            sibling = remaining.pop(0)
            result = node_hash(sibling, result) if index & 1 else node_hash(result, sibling)
        index >>= 1
        last >>= 1
    return not remaining and result == root


def verify_consistency(
    *, old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Tell whether the tree of `new_size` leaves begins with the tree of `old_size` (never 0) leaves."""
    if not 1 <= old_size <= new_size:
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    remaining = list(proof)
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    if node and not remaining:
        return False
    old = new = remaining.pop(0) if node else old_root
    while last:
        if node & 1 or node < last:
            if not remaining:
                return False
            sibling = remaining.pop(0)
            if node & 1:
                old, new = node_hash(sibling, old), node_hash(sibling, new)
            else:
                new = node_hash(new, sibling)
        node >>= 1
        last >>= 1
    return not remaining and old == old_root and new == new_root


def export_proof(*, index: int, proof: Sequence[bytes], checkpoint: bytes) -> str:
    """Write a `.tlog-proof` file: it can be checked for ever, offline, with the leaf and the verifier key."""
    hashes = "".join(base64.b64encode(node).decode() + "\n" for node in proof)
    return f"c2sp.org/tlog-proof@v1\nindex {index}\n{hashes}\n{checkpoint.decode()}"
