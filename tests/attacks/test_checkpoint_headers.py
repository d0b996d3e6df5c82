"""Attack: a weight file whose header lies, to make a reader allocate, overrun, or read another tensor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint

HONEST = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def forged(
    directory: Path, header: bytes | dict[str, Any], *, data: bytes = bytes(8), length: int | None = None
) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = directory / "model.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def refused(path: Path) -> ValidationError:
    with pytest.raises(ValidationError, match=r"model\.safetensors") as error:
        open_checkpoint(path)
    assert error.value.details["file"] == "model.safetensors"
    return error.value


def test_the_honest_file_of_these_attacks_is_read(tmp_path: Path):
    with open_checkpoint(forged(tmp_path, {"w": HONEST})) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("w"), [0, 0])


@pytest.mark.parametrize(
    "length", [0, 1, 7, 9, 1 << 20, 100_000_001, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1]
)
def test_a_header_length_that_is_not_true(tmp_path: Path, length: int):
    refused(forged(tmp_path, {"w": HONEST}, length=length))


def test_a_git_lfs_pointer_says_what_to_do(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 11547040\n")
    assert "git lfs pull" in refused(path).message


@pytest.mark.parametrize(
    "content", [b"", b"\0", bytes(7), bytes(8), b"\x80\x04\x95" * 9, b"PK\x03\x04" + bytes(40)]
)
def test_a_file_that_is_something_else(tmp_path: Path, content: bytes):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize(
    "offsets",
    [
        [-1, 7],
        [-8, 0],
        [0, -8],
        [8, 0],
        [0, 9],
        [8, 16],
        [0, 1 << 63],
        [1 << 63, (1 << 63) + 8],
        [(1 << 64) - 8, 1 << 64],
        [-(1 << 63), 8 - (1 << 63)],
        [0, 10**400],
        [0.0, 8.0],
        [False, 8],
        ["0", "8"],
        [0, 8, 8],
        [0],
        [],
        None,
        8,
        {"begin": 0, "end": 8},
    ],
)
def test_offsets_that_lie(tmp_path: Path, offsets):
    assert refused(forged(tmp_path, {"w": HONEST | {"data_offsets": offsets}})).details["tensor"] == "w"


@pytest.mark.parametrize(
    "shape",
    [
        [-2],
        [-1, -2],
        [3],
        [1],
        [0],
        [],
        [1 << 63],
        [1 << 62, 1 << 62],
        [1 << 32, 1 << 32],
        [(1 << 63) + 1, 2],
        [0, 1 << 62, 1 << 62],
        [2, 10**300],
        [2.0],
        [True, 2],
        ["2"],
        [1] * 9,
        [1] * 100_000,
        None,
        2,
        "2",
    ],
)
def test_shapes_that_lie_or_overflow(tmp_path: Path, shape):
    assert refused(forged(tmp_path, {"w": HONEST | {"shape": shape}})).details["tensor"] == "w"


def test_a_zero_does_not_hide_an_overflow(tmp_path: Path):
    empty = {"dtype": "F32", "shape": [0, 1 << 62, 1 << 62], "data_offsets": [0, 0]}
    refused(forged(tmp_path, {"w": empty}, data=b""))


@pytest.mark.parametrize(
    "dtype", ["F4", "F8_E4M3", "U16", "f32", "", "O", "object", ">f4", 5, None, ["F32"], "F32\0"]
)
def test_dtypes_that_are_not_ours(tmp_path: Path, dtype):
    assert refused(forged(tmp_path, {"w": HONEST | {"dtype": dtype}})).details["tensor"] == "w"


@pytest.mark.parametrize(
    "entry", [None, [], "x", 5, {}, {"dtype": "F32"}, HONEST | {"extra": 1}, {"dtype": "F32", "shape": [2]}]
)
def test_entries_that_are_not_complete_or_carry_more(tmp_path: Path, entry):
    refused(forged(tmp_path, {"w": entry}))


def test_two_tensors_over_the_same_bytes(tmp_path: Path):
    refused(forged(tmp_path, {"a": HONEST, "b": HONEST}))
    other = {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}
    refused(forged(tmp_path, {"a": HONEST, "b": other}, data=bytes(12)))


def test_bytes_that_no_tensor_names(tmp_path: Path):
    refused(forged(tmp_path, {"w": HONEST}, data=bytes(9)))
    refused(forged(tmp_path, {}, data=bytes(1)))
    refused(forged(tmp_path, {"w": HONEST | {"data_offsets": [4, 12]}}, data=bytes(12)))


def test_the_same_name_twice(tmp_path: Path):
    entry = json.dumps(HONEST).encode()
    error = refused(forged(tmp_path, b'{"w":' + entry + b',"w":' + entry + b"}"))
    assert "twice" in error.message
    refused(forged(tmp_path, b'{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'))


@pytest.mark.parametrize("metadata", [None, [], "x", {"a": 1}, {"a": None}, {"a": {}}])
def test_metadata_that_is_not_text(tmp_path: Path, metadata):
    refused(forged(tmp_path, {"__metadata__": metadata, "w": HONEST}))


@pytest.mark.parametrize(
    "text",
    [
        b"{" * 100_000,
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"w\xff":1}',
        b'{"\xed\xa0\x80":1}',
        b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b'\xef\xbb\xbf{"w":1}',
        b"[]",
        b"null",
        b" {}",
        b'{"w":NaN}',
        b'{"w":-Infinity}',
        b'{"w":1e400}',
        b'{"w":' + b"9" * 10_000 + b"}",
        b"{}x",
        b'{"w":1,}',
        b"{'w':1}",
        '{"w":1}'.encode("utf-16"),
    ],
)
def test_json_that_is_deep_or_broken_or_not_utf8(tmp_path: Path, text: bytes):
    refused(forged(tmp_path, text))


def test_a_name_cannot_write_to_the_readers_terminal(tmp_path: Path):
    error = refused(forged(tmp_path, {"\x1b[2J\x1b[31mowned\r\n" + "x" * 10_000: HONEST | {"dtype": "?"}}))
    assert "\x1b" not in error.message
    assert "\n" not in error.message
    assert len(error.message) < 1000


OPEN_WITH_LITTLE_MEMORY = """
import resource, sys
from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint

resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
try:
    open_checkpoint(sys.argv[1])
except ValidationError as error:
    print(error.message)
    sys.exit(7)
"""


@pytest.mark.parametrize("length", [1 << 30, (1 << 40) - 8])
def test_a_sparse_file_of_a_terabyte_does_not_make_the_reader_allocate(tmp_path: Path, length: int):
    path = forged(tmp_path, b"{", data=b"", length=length)
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    run = subprocess.run(
        [sys.executable, "-c", OPEN_WITH_LITTLE_MEMORY, str(path), str(1 << 30)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert run.returncode == 7, run.stderr
    assert "more than the limit" in run.stdout


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_many_refusals_leave_no_descriptor_open(tmp_path: Path):
    path = forged(tmp_path, {"w": HONEST | {"shape": [3]}})
    before = open_descriptors()
    for _ in range(50):
        refused(path)
    assert open_descriptors() <= before
