from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy as official
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.safetensors import write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

DTYPES_BOTH_KNOW = [
    np.bool_,
    np.uint8,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.float16,
    np.float32,
    np.float64,
]


def some_tensors() -> st.SearchStrategy[dict[str, Any]]:
    arrays = st.sampled_from(DTYPES_BOTH_KNOW).flatmap(
        lambda dtype: hnp.arrays(
            dtype=dtype,
            shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
            elements={"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else None,
        )
    )
    names = st.text(min_size=1, max_size=12).filter(
        lambda name: name.isprintable() and name != "__metadata__"
    )
    return st.dictionaries(names, arrays, max_size=6)


@settings(max_examples=60, deadline=None)
@given(tensors=some_tensors())
def test_what_the_official_package_writes_reads_back_the_same(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "model.safetensors"
    path.write_bytes(official.save(tensors))
    for memory_map_above in (-1, 1 << 40):
        with open_checkpoint(path, memory_map_above=memory_map_above) as checkpoint:
            assert set(checkpoint.tensors) == set(tensors)
            for name, expected in tensors.items():
                actual = checkpoint.read(name)
                assert actual.dtype == expected.dtype
                assert actual.flags.aligned
                assert not actual.flags.writeable
                np.testing.assert_array_equal(actual, expected)


@settings(max_examples=60, deadline=None)
@given(tensors=some_tensors(), metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_what_we_write_the_official_package_reads_the_same(tensors, metadata, tmp_path_factory):
    path = tmp_path_factory.mktemp("ours") / "model.safetensors"
    write_safetensors(path, tensors, metadata=metadata)
    read = official.load_file(path)
    assert set(read) == set(tensors)
    for name, expected in tensors.items():
        assert read[name].dtype == expected.dtype
        np.testing.assert_array_equal(read[name], expected)
    with safetensors.safe_open(path, "numpy") as file:
        assert (file.metadata() or {}) == metadata


def test_a_uint16_array_is_written_as_bfloat16(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"w": np.array([0x3F80, 0xC000], dtype=np.uint16)})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors["w"].dtype == "BF16"
        np.testing.assert_array_equal(checkpoint.read("w"), np.array([0x3F80, 0xC000], dtype=np.uint16))
        np.testing.assert_array_equal(checkpoint.read_float32("w"), np.array([1.0, -2.0], dtype=np.float32))


def test_the_bytes_do_not_depend_on_the_order_of_the_tensors(tmp_path: Path):
    a, b = np.arange(3, dtype=np.float32), np.arange(5, dtype=np.int8)
    write_safetensors(tmp_path / "one", {"a": a, "b": b}, metadata={"x": "1", "y": "2"})
    write_safetensors(tmp_path / "two", {"b": b, "a": a}, metadata={"y": "2", "x": "1"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_writer_accepts_views_that_are_not_contiguous(tmp_path: Path):
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_safetensors(tmp_path / "t.safetensors", {"t": matrix.T, "s": matrix[:, ::2]})
    read = official.load_file(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(read["t"], matrix.T)
    np.testing.assert_array_equal(read["s"], matrix[:, ::2])


@pytest.mark.parametrize(
    "tensor", [np.array(["text"]), np.zeros(2, dtype=np.complex64), np.zeros(2, dtype=">f4")]
)
def test_the_writer_refuses_a_dtype_it_does_not_know_and_leaves_no_file(tensor, tmp_path: Path):
    with pytest.raises(ValidationError, match="'w'"):
        write_safetensors(tmp_path / "bad.safetensors", {"w": tensor})
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_unaligned_tensors_reads_the_same_when_mapped(tmp_path: Path):
    header = json.dumps(
        {
            "byte": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "floats": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
        }
    ).encode()
    data = b"\x07" + np.array([1.5, -2.5], dtype="<f4").tobytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    for memory_map_above in (-1, 1 << 40):
        with open_checkpoint(path, memory_map_above=memory_map_above) as checkpoint:
            floats = checkpoint.read("floats")
            assert floats.flags.aligned
            np.testing.assert_array_equal(floats, [1.5, -2.5])


def test_arrays_stay_valid_after_the_checkpoint_is_closed(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"w": np.arange(1000, dtype=np.float32)})
    checkpoint = open_checkpoint(path, memory_map_above=-1)
    values = checkpoint.read("w")
    checkpoint.close()
    checkpoint.close()
    np.testing.assert_array_equal(values, np.arange(1000, dtype=np.float32))
