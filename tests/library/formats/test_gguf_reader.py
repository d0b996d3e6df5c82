"""The reader against the official package, and against files that lie."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.gguf import GGUFTensor, TensorType, write_gguf
from tritium.formats.gguf_blocks import encode_q8_0
from tritium.formats.gguf_decode import TERNARY
from tritium.formats.gguf_reader import GGUFFile
from tritium.formats.gguf_shards import GGUFFiles
from tritium.formats.gguf_weights import GGUFWeights

if TYPE_CHECKING:
    from pathlib import Path


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, data: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + data


def claim(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def container(
    claims: list[bytes] = (),
    *,
    entries: list[bytes] = (),
    data: bytes = b"",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """A file of these pieces, right or wrong."""
    tensor_count, entry_count = counts or (len(claims), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, entry_count) + b"".join([*entries, *claims])
    return head + bytes(-len(head) % alignment) + data


def opened(data: bytes, directory: Path) -> GGUFFile:
    path = directory / "model.gguf"
    path.write_bytes(data)
    return GGUFFile(path)


ONE = claim("a", (2, 8), 0, 0)  # 64 bytes of F32
GOOD = container([ONE, claim("b", (3,), 1, 64)], entries=[entry("k", 8, text("v"))], data=bytes(64 + 6 + 26))


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(tmp_path, version):
    data = np.arange(16, dtype="<f4").tobytes()
    with opened(container([ONE], data=data, version=version), tmp_path) as file:
        assert file.version == version
        found = file.tensors["a"]
        assert (found.shape, found.type, found.nbytes) == ((2, 8), TensorType.F32, 64)
        np.testing.assert_array_equal(file.data(found).view("<f4"), np.arange(16))


def test_values_of_every_kind_are_read(tmp_path):
    kinds = {0: ("B", 7), 1: ("b", -7), 2: ("H", 7), 3: ("h", -7), 4: ("I", 7), 5: ("i", -7), 6: ("f", 0.5),
             10: ("Q", 1 << 60), 11: ("q", -(1 << 60)), 12: ("d", 0.1)}  # fmt: skip
    entries = [
        entry(f"one.{kind}", kind, struct.pack("<" + form, value)) for kind, (form, value) in kinds.items()
    ]
    entries += [
        entry(f"two.{kind}", 9, struct.pack(f"<IQ2{form}", kind, 2, value, value))
        for kind, (form, value) in kinds.items()
    ]
    entries += [entry("flag", 7, b"\1"), entry("flags", 9, struct.pack("<IQ", 7, 2) + b"\0\1")]
    entries += [entry("none", 9, struct.pack("<IQ", 8, 0))]
    with opened(container(entries=entries), tmp_path) as file:
        for kind, (_, value) in kinds.items():
            assert file.metadata[f"one.{kind}"] == value
            assert file.metadata[f"two.{kind}"] == [value, value]
        assert file.metadata["flag"] is True
        assert file.metadata["flags"] == [False, True]
        assert file.metadata["none"] == []


def test_the_padding_behind_the_last_tensor_may_be_missing(tmp_path):
    with opened(GOOD[:-26], tmp_path) as file:
        assert list(file.tensors) == ["a", "b"]


def test_another_alignment_is_followed(tmp_path):
    claims = [claim("a", (3,), 0, 0), claim("b", (1,), 0, 64)]
    entries = [entry("general.alignment", 4, struct.pack("<I", 64))]
    data = container(claims, entries=entries, data=bytes(64) + struct.pack("<f", 2.5), alignment=64)
    with opened(data, tmp_path) as file:
        assert file.data(file.tensors["b"]).view("<f4")[0] == 2.5


WRONG = {
    "no GGUF": (b"PK\3\4" + bytes(60), "not a GGUF file"),
    "too short": (b"GG", "too few"),
    "version 1": (container(version=1), "version 1 is not known"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
    "many tensors": (container(counts=(1 << 60, 0)), "claims 1152921504606846976 tensors"),
    "many entries": (container(counts=(0, 1 << 60)), "metadata entries"),
    "a long text": (container(entries=[struct.pack("<Q", 1 << 62) + bytes(8)]), "more than"),
    "a text behind the end": (container(entries=[struct.pack("<Q", 1 << 20) + bytes(50)]), "bytes are left"),
    "a text that is none": (container(entries=[entry("k", 8, text(b"\xff\xfe"))]), "not valid UTF-8"),
    "a long list": (container(entries=[entry("k", 9, struct.pack("<IQ", 4, 1 << 40))]), "more than 4194304"),
    "a list behind the end": (container(entries=[entry("k", 9, struct.pack("<IQ", 10, 1 << 20))]), "left"),
    "lists in a list": (container(entries=[entry("k", 9, struct.pack("<IQ", 9, 1) + bytes(12))]), "of lists"),
    "an unknown kind": (container(entries=[entry("k", 13, bytes(8))]), "unknown type 13"),
    "a claim of 2": (container(entries=[entry("k", 7, b"\2")]), "neither true nor false"),
    "a key twice": (container(entries=[entry("k", 7, b"\1"), entry("k", 7, b"\1")]), "'k' is there twice"),
    "alignment 0": (container(entries=[entry("general.alignment", 4, bytes(4))]), "power of two"),
    "alignment 24": (
        container(entries=[entry("general.alignment", 4, struct.pack("<I", 24))]), "power of two"),
    "a name twice": (container([ONE, ONE], data=bytes(64)), "'a': is there twice"),
    "no dimension": (container([text("a") + struct.pack("<IIQ", 0, 0, 0) + bytes(8)]), "0 dimensions"),
    "five dimensions": (container([claim("a", (1,) * 5, 0, 0)], data=bytes(32)), "5 dimensions"),
    "a size of 0": (container([claim("a", (4, 0), 0, 0)]), "not possible"),
    "a size beyond all": (container([claim("a", (1 << 40, 1 << 40), 0, 0)]), "not possible"),
    "an offset between": (container([claim("a", (2,), 0, 8)], data=bytes(32)), "no multiple of"),
    "an overlap": (container([ONE, claim("b", (3,), 0, 32)], data=bytes(96)), "'a': F32 of shape"),
    "the same place": (container([ONE, claim("b", (2, 8), 0, 0)], data=bytes(64)), "F32 of shape"),
    "a gap": (container([ONE, claim("b", (3,), 0, 96)], data=bytes(128)), "'a': F32 of shape"),
    "a gap before": (container([claim("a", (2, 8), 0, 32)], data=bytes(96)), "does not begin where"),
    "an offset behind the end": (container([claim("a", (1,), 0, 1 << 60)], data=bytes(32)), "does not begin"),
    "bytes behind": (container([ONE], data=bytes(96)), "the file has 96 for it"),
    "data cut": (container([ONE], data=bytes(60)), "the file has 60 for it"),
    "half a block": (container([claim("a", (2, 48), 8, 0)], data=bytes(128)), "no whole blocks of 32"),
    "Q5_K": (container([claim("a", (256,), 13, 0)], data=bytes(176)), "Q5_K, number 13"),
    "MXFP4": (container([claim("a", (32,), 39, 0)], data=bytes(32)), "MXFP4, or TL2 of bitnet.cpp"),
    "a number of nobody": (container([claim("a", (32,), 4711, 0)], data=bytes(32)), "unknown, number 4711"),
    "another I2_S": (container([claim("a", (4, 128), 36, 0)], data=bytes(128)), "takes 160 bytes"),
    "odd rows of I2_S": (container([claim("a", (4, 96), 36, 0)], data=bytes(128)), "blocks of 128"),
    "another Q2_0": (container([claim("a", (32, 128), 42, 0)], data=bytes(32 * 40)), "neither that"),
    "a Q2_0 that may be both": (container([claim("a", (1, 128), 42, 0)], data=bytes(64)), "too small"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_lies_is_refused_by_name(tmp_path, name):
    data, reason = WRONG[name]
    with pytest.raises(ValidationError, match=reason) as caught:
        opened(data, tmp_path)
    assert str(caught.value).startswith("model.gguf: ")


def test_what_is_no_regular_file_is_refused(tmp_path):
    with pytest.raises(ValidationError, match="cannot be opened"):
        GGUFFile(tmp_path / "nothing.gguf")
    with pytest.raises(ValidationError, match="not a regular file"):
        GGUFFile(tmp_path)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    end = len(GOOD) - 26  # padding
    for length in range(end):
        with pytest.raises(ValidationError):
            opened(GOOD[:length], tmp_path)


@pytest.fixture(scope="module")
def one_of_each(tmp_path_factory) -> Path:
    """A small file with a tensor of every type."""
    path = tmp_path_factory.mktemp("each") / "model.gguf"
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "Q4_0": 18, "Q8_0": 34, "Q4_K": 144, "Q6_K": 210, "TQ1_0": 54,
             "TQ2_0": 66, "I2_S": 32, "Q2_0": 18}  # fmt: skip
    claims, data = [], b""
    for name, size in sizes.items():
        kind = TensorType[name]
        rows, columns = (40, 64) if name == "Q2_0" else (2, 256)
        elements = 64 if name == "Q2_0" else {"I2_S": 128}.get(name, 0) or BLOCK[name]
        claims.append(claim(name, (rows, columns), kind, len(data)))
        nbytes = rows * columns // elements * size + (32 if name == "I2_S" else 0)
        data += bytes(nbytes) + bytes(-nbytes % 32)
    entries = [entry("general.name", 8, text("each")), entry("list", 9, struct.pack("<IQ3i", 5, 3, 1, 2, 3))]
    path.write_bytes(container(claims, entries=entries, data=data))
    return path


BLOCK = {"F32": 1, "F16": 1, "BF16": 1, "Q4_0": 32, "Q8_0": 32, "Q4_K": 256, "Q6_K": 256, "TQ1_0": 256,
         "TQ2_0": 256}  # fmt: skip


def read_everything(path: Path) -> None:
    with GGUFFiles(path) as file:
        weights = GGUFWeights(file)
        for name, stored in file.tensors.items():
            if stored.type in TERNARY:
                weights.add_ternary(name, [stored])
            else:
                weights.add_dense(name, stored)
        for info in weights.tensors.values():
            assert weights.read(info).shape == info.shape


def test_a_tensor_of_every_type_is_read(one_of_each):
    read_everything(one_of_each)


@pytest.mark.parametrize("rows", [range(1, 2), [1, 0, 1], range(0)])
def test_rows_are_decoded_as_the_whole_tensor_is(tmp_path, rows):
    draw = np.random.default_rng(0)
    values = draw.normal(size=(4, 256)).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    data = {TensorType.F32: values, TensorType.BF16: bits, TensorType.Q8_0: encode_q8_0(values)}
    tensors = [
        GGUFTensor(kind.name, values.shape, kind, lambda each=each: [np.ascontiguousarray(each).tobytes()])
        for kind, each in data.items()
    ]
    write_gguf(tmp_path / "model.gguf", metadata={}, tensors=tensors)
    with GGUFFiles(tmp_path / "model.gguf") as file:
        weights = GGUFWeights(file)
        for name, stored in file.tensors.items():
            weights.add_dense(name, stored)
            weights.add_dense(f"{name}.heads", stored, interleaved=4)
        for info in weights.tensors.values():
            whole = weights.read(info)
            np.testing.assert_array_equal(weights.read_rows(info, rows), whole[list(rows)], strict=True)


@settings(max_examples=300)
@given(data=st.data())
def test_damage_is_refused_or_harmless_and_never_anything_else(one_of_each, tmp_path_factory, data):
    content = bytearray(one_of_each.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        in_header = data.draw(st.booleans())
        position = data.draw(st.integers(0, (900 if in_header else len(content)) - 1))
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    path.write_bytes(bytes(content))
    try:
        read_everything(path)
    except ValidationError as error:
        assert "model.gguf" in str(error)  # noqa: PT017 - both ends are right ones


def test_groups_of_q2_0_are_told_apart_by_the_bytes_they_take(tmp_path):
    for group, size in ((64, 18), (128, 34)):
        nbytes = 20 * 256 // group * size
        data = container([claim("a", (20, 256), 42, 0)], data=bytes(nbytes + -nbytes % 32))
        with opened(data, tmp_path) as file:
            assert file.tensors["a"].block == group
            assert file.tensors["a"].nbytes == nbytes


def test_one_large_tensor_of_q2_0_tells_the_groups_of_a_small_one(tmp_path):
    sizes = [128 // 128 * 34, 32 * 128 // 128 * 34]
    claims = [claim("small", (1, 128), 42, 0), claim("large", (32, 128), 42, 64)]
    with opened(container(claims, data=bytes(64 + sizes[1])), tmp_path) as file:
        assert [tensor.block for tensor in file.tensors.values()] == [128, 128]


@pytest.mark.gguf
def test_what_we_write_the_official_package_reads_the_same(tmp_path):
    import gguf  # noqa: PLC0415 - the bare wheel comes without it

    metadata = {"general.architecture": "llama", "a.share": 0.5, "a.words": ["x", "☃"], "a.ids": [1, -1]}
    values = np.arange(64, dtype=np.float32).reshape(2, 32)
    tensor = GGUFTensor("w", (2, 32), TensorType.F32, lambda: [values.data])
    write_gguf(tmp_path / "m.gguf", metadata=metadata, tensors=[tensor])
    theirs = gguf.GGUFReader(tmp_path / "m.gguf")
    with GGUFFile(tmp_path / "m.gguf") as ours:
        assert ours.metadata == metadata
        assert {key: theirs.fields[key].contents() for key in metadata} == metadata
        found = {tensor.name: tensor for tensor in theirs.tensors}
        assert found.keys() == ours.tensors.keys()
        stored = ours.tensors["w"]
        assert int(found["w"].data_offset) == stored.offset
        np.testing.assert_array_equal(np.array(found["w"].data), values)


@pytest.mark.gguf
def test_what_the_official_package_writes_is_read_the_same(tmp_path):
    import gguf  # noqa: PLC0415 - the bare wheel comes without it

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint8("u8", 8)
    writer.add_int64("i64", -(1 << 40))
    writer.add_float64("f64", 0.1)
    writer.add_bool("flag", val=True)
    writer.add_array("scores", [0.5, -1.0])
    tensors = {
        name: rng.standard_normal((3, 256)).astype(np.float32)
        for name in ("F32", "F16", "Q8_0", "Q4_0", "TQ2_0")
    }
    for name, values in tensors.items():
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert file.metadata == {
            "general.architecture": "llama", "u8": 8, "i64": -(1 << 40), "f64": 0.1, "flag": True,
            "scores": [0.5, -1.0],
        }  # fmt: skip
        for name, values in tensors.items():
            stored = file.tensors[name]
            assert stored.shape == (3, 256)
            expected = gguf.quantize(values, gguf.GGMLQuantizationType[name])
            assert file.data(stored).tobytes() == expected.tobytes()
