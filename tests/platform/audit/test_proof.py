from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.audit.merkle import EMPTY_ROOT, leaf_hash, tree_root
from tritium_platform.audit.proof import (
    consistency_proof,
    export_proof,
    inclusion_proof,
    verify_consistency,
    verify_inclusion,
)
from tritium_platform.errors import ValidationError

VECTORS = Path(__file__).parent / "vectors"


def read_vectors(kind: str) -> list:
    return [
        pytest.param(vector, id=vector["file"])
        for vector in json.loads((VECTORS / f"{kind}.json").read_text())
    ]


def decoded(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


class MemoryTree:
    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves = leaves

    def read_hash(self, *, level: int, index: int) -> bytes:
        start = index << level
        part = self.leaves[start : start + (1 << level)]
        assert len(part) == 1 << level, "asked beyond the tree"
        return naive_root(part)


def some_leaves(count: int) -> list[bytes]:
    return [f"leaf {number}".encode() for number in range(count)]


@pytest.mark.parametrize("vector", read_vectors("inclusion"))
def test_inclusion_vectors_of_transparency_dev(vector):
    accepted = verify_inclusion(
        index=vector["leafIdx"],
        size=vector["treeSize"],
        leaf=decoded(vector["leafHash"]),
        proof=[decoded(node) for node in vector["proof"] or []],
        root=decoded(vector["root"]),
    )
    assert accepted is not vector["wantErr"]


@pytest.mark.parametrize("vector", read_vectors("consistency"))
def test_consistency_vectors_of_transparency_dev(vector):
    accepted = verify_consistency(
        old_size=vector["size1"],
        new_size=vector["size2"],
        old_root=decoded(vector["root1"]),
        new_root=decoded(vector["root2"]),
        proof=[decoded(node) for node in vector["proof"] or []],
    )
    assert accepted is not vector["wantErr"]


def test_there_are_196_vectors_and_those_that_start_from_size_zero_want_an_error():
    assert len(read_vectors("inclusion")) + len(read_vectors("consistency")) == 196
    zeros = [v for v in json.loads((VECTORS / "consistency.json").read_text()) if v["size1"] == 0]
    assert zeros
    assert all(vector["wantErr"] for vector in zeros)


@given(st.integers(0, 300))
def test_the_root_is_that_of_the_rfc(size):
    leaves = some_leaves(size)
    assert tree_root(MemoryTree(leaves), size=size) == naive_root(leaves)
    assert tree_root(MemoryTree([]), size=0) == EMPTY_ROOT


@given(st.data())
def test_every_entry_proves_its_inclusion_and_no_other(data):
    size = data.draw(st.integers(1, 130))
    index = data.draw(st.integers(0, size - 1))
    leaves = some_leaves(size)
    proof = inclusion_proof(MemoryTree(leaves), index=index, size=size)
    root = naive_root(leaves)
    assert len(proof) <= (size - 1).bit_length()
    assert verify_inclusion(index=index, size=size, leaf=leaf_hash(leaves[index]), proof=proof, root=root)
    other = data.draw(st.integers(0, size - 1).filter(lambda n: size == 1 or n != index))
    assert size == 1 or not verify_inclusion(
        index=index, size=size, leaf=leaf_hash(leaves[other]), proof=proof, root=root
    )
    longer = [*proof, bytes(32)]
    assert not verify_inclusion(
        index=index, size=size, leaf=leaf_hash(leaves[index]), proof=longer, root=root
    )


@given(st.data())
def test_a_grown_log_proves_that_it_continues_the_old_one_and_a_changed_one_cannot(data):
    new_size = data.draw(st.integers(1, 130))
    old_size = data.draw(st.integers(1, new_size))
    leaves = some_leaves(new_size)
    proof = consistency_proof(MemoryTree(leaves), old_size=old_size, new_size=new_size)
    sizes = {"old_size": old_size, "new_size": new_size}
    old_root, new_root = naive_root(leaves[:old_size]), naive_root(leaves)
    assert verify_consistency(**sizes, old_root=old_root, new_root=new_root, proof=proof)
    forged = list(leaves)
    forged[data.draw(st.integers(0, old_size - 1))] = b"forged"
    forged_proof = consistency_proof(MemoryTree(forged), **sizes)
    assert not verify_consistency(**sizes, old_root=old_root, new_root=naive_root(forged), proof=forged_proof)


def test_a_proof_beyond_the_log_is_refused():
    tree = MemoryTree(some_leaves(4))
    with pytest.raises(ValidationError, match="no entry 4"):
        inclusion_proof(tree, index=4, size=4)
    with pytest.raises(ValidationError, match="no consistency proof"):
        consistency_proof(tree, old_size=0, new_size=4)


def test_an_exported_proof_carries_index_hashes_and_checkpoint():
    text = export_proof(index=3, proof=[bytes(32)], checkpoint=b"log\n4\nroot\n\n\xe2\x80\x94 log c2ln\n")
    lines = text.split("\n")
    assert lines[:2] == ["c2sp.org/tlog-proof@v1", "index 3"]
    assert base64.b64decode(lines[2]) == bytes(32)
    assert text.endswith("\n\nlog\n4\nroot\n\n— log c2ln\n")
