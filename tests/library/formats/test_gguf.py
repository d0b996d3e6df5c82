"""The container, read back by a reader written here from the specification."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats.gguf import BLOCKS, TAILS, GGUFTensor, TensorType, write_gguf
from tritium.formats.gguf_tokenizer import numbered_vocabulary, tokenizer_metadata


def read_gguf(data: bytes) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], int, bytes]]]:
    """Return the metadata and name -> (shape, type, bytes)."""
    position = 0

    def take(form: str) -> Any:
        nonlocal position
        values = struct.unpack_from("<" + form, data, position)
        position += struct.calcsize("<" + form)
        return values[0]

    def text() -> str:
        nonlocal position
        size = take("Q")
        position += size
        return data[position - size : position].decode()

    def value(kind: int) -> Any:
        if kind == 9:
            inner, count = take("I"), take("Q")
            return [value(inner) for _ in range(count)]
        return text() if kind == 8 else take({4: "I", 5: "i", 6: "f", 7: "?"}[kind])

    assert take("4s") == b"GGUF"
    assert take("I") == 3
    tensors, entries = take("Q"), take("Q")
    metadata = {}
    for _ in range(entries):
        name = text()
        metadata[name] = value(take("I"))
    infos = []
    for _ in range(tensors):
        name, axes = text(), take("I")
        infos.append((name, tuple(take("Q") for _ in range(axes))[::-1], take("I"), take("Q")))
    start = position + -position % 32
    assert not any(data[position:start])
    found = {}
    for name, shape, kind, offset in infos:
        elements, size = BLOCKS[TensorType(kind)]
        nbytes = int(np.prod(shape)) // elements * size + TAILS.get(TensorType(kind), 0)
        assert offset % 32 == 0
        found[name] = (shape, kind, data[start + offset : start + offset + nbytes])
    assert len(data) % 32 == start % 32
    return metadata, found


def tensor(name: str = "a.weight", *, shape: tuple[int, ...] = (3, 5), data: bytes = b"") -> GGUFTensor:
    held = data or np.arange(np.prod(shape), dtype=np.float32).tobytes()
    return GGUFTensor(name, shape, TensorType.F32, lambda: [held[:7], held[7:]])


def test_metadata_and_tensors_come_back(tmp_path):
    metadata = {
        "a.text": "fünf",
        "a.count": 7,
        "a.share": 0.5,
        "a.flag": True,
        "a.words": ["one", "", "☃"],
        "a.kinds": [1, -1],
        "a.scores": [0.0, -2.5],
    }
    path = tmp_path / "model.gguf"
    write_gguf(path, metadata=metadata, tensors=[tensor(), tensor("b", shape=(7,))])
    found, tensors = read_gguf(path.read_bytes())
    assert found == metadata
    assert list(tensors) == ["a.weight", "b"]
    shape, kind, data = tensors["a.weight"]
    assert (shape, kind) == ((3, 5), 0)
    np.testing.assert_array_equal(np.frombuffer(data, "<f4"), np.arange(15))


@pytest.mark.parametrize(
    ("metadata", "bad"),
    [
        ({"k": -1}, []),
        ({"k": []}, []),
        ({"k": [1, "a"]}, []),
        ({}, [tensor("n" * 64)]),
        ({}, [tensor(data=b"too few bytes")]),
        ({}, [GGUFTensor("q", (2, 40), TensorType.Q8_0, lambda: [b""])]),
    ],
    ids=["negative", "empty list", "mixed list", "long name", "wrong size", "half a block"],
)
def test_what_the_format_cannot_hold_is_refused_and_leaves_no_file(tmp_path, metadata, bad):
    with pytest.raises(ValidationError):
        write_gguf(tmp_path / "m.gguf", metadata=metadata, tensors=bad)
    assert list(tmp_path.iterdir()) == []


def byte_level(**changes: Any) -> dict[str, Any]:
    return {
        "model": {"type": "BPE", "vocab": {"a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]},
        "added_tokens": [
            {"id": 0, "content": "<end>", "special": True},
            {"id": 4, "content": "<tool>", "special": False},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "normalizer": None,
    } | changes


def test_a_byte_level_tokenizer_keeps_its_ids_kinds_and_merges():
    found = tokenizer_metadata(byte_level(), vocab_size=6)
    assert found["tokenizer.ggml.tokens"] == ["<end>", "a", "b", "ab", "<tool>", "[unused5]"]
    assert found["tokenizer.ggml.token_type"] == [3, 1, 1, 1, 4, 5]
    assert found["tokenizer.ggml.merges"] == ["a b"]
    assert found["tokenizer.ggml.pre"] == "gpt-2"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": {"type": "Unigram"}}, "only a BPE"),
        ({"model": {"type": "BPE", "byte_fallback": True, "vocab": {}}}, "byte_fallback"),
        ({"normalizer": {"type": "NFC"}}, "normalizer"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "splits text"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "splits text"),
        ({"added_tokens": [{"id": 6, "content": "x"}]}, "has id 6"),
        ({"model": {"type": "BPE", "vocab": {}, "ignore_merges": True}}, "ignore_merges"),
    ],
)
def test_a_tokenizer_that_readers_would_take_for_another_is_refused(changes, reason):
    with pytest.raises(ValidationError, match=reason):
        tokenizer_metadata(byte_level(**changes), vocab_size=6)


def test_a_model_without_a_tokenizer_gets_numbered_tokens():
    found = numbered_vocabulary(300)
    assert len(set(found["tokenizer.ggml.tokens"])) == 300
    assert found["tokenizer.ggml.merges"]
