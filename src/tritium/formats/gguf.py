"""The GGUF container, version 3: typed metadata, then tensors, each aligned to 32 bytes.

    "GGUF" | version u32 | tensors u64 | entries u64 | entries: name, type u32, value ...
    tensors: name, dimensions u32, sizes u64 (the innermost first), type u32, offset u64 ... | padding | data

Layout as in the specification of ggml (docs/gguf.md). What the bytes of a block mean is in gguf_blocks.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import TYPE_CHECKING, Final

from tritium.errors import ValidationError
from tritium.formats.refusal import quoted
from tritium.formats.storage import write_file_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
LONGEST_TENSOR_NAME = 63  # bytes; readers keep 64 with the end

Value = bool | int | float | str | list[str] | list[int] | list[float]


class TensorType(IntEnum):
    """The tensor types this library reads, and partly writes, with the numbers of ggml and bitnet.cpp."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q8_0 = 8
    Q4_K = 12
    Q6_K = 14
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    I2_S = 36  # of bitnet.cpp
    Q2_0 = 42


# type -> (elements, bytes) of one block; a fork has another Q2_0 (gguf_reader.py), I2_S ends with its scale
BLOCKS: Final[Mapping[TensorType, tuple[int, int]]] = {
    TensorType.F32: (1, 4),
    TensorType.F16: (1, 2),
    TensorType.BF16: (1, 2),
    TensorType.Q4_0: (32, 18),
    TensorType.Q8_0: (32, 34),
    TensorType.Q4_K: (256, 144),
    TensorType.Q6_K: (256, 210),
    TensorType.TQ1_0: (256, 54),
    TensorType.TQ2_0: (256, 66),
    TensorType.I2_S: (128, 32),
    TensorType.Q2_0: (64, 18),
}
# bytes after the last block of a tensor; of I2_S the first four are its scale
TAILS: Final[Mapping[TensorType, int]] = {TensorType.I2_S: 32}


class ValueKind(IntEnum):
    """What a value of the metadata is, with the numbers of the format."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor to be written: `pieces` yields its encoded bytes, row after row, when its turn comes."""

    name: str
    shape: tuple[int, ...]  # as numpy has it: the outermost first
    type: TensorType
    pieces: Callable[[], Iterable[bytes | memoryview]]

    @property
    def nbytes(self) -> int:
        """The bytes its data takes, padding not counted."""
        elements, size = BLOCKS[self.type]
        return prod(self.shape) // elements * size + TAILS.get(self.type, 0)


def write_gguf(path: Path, *, metadata: Mapping[str, Value], tensors: Sequence[GGUFTensor]) -> None:
    """Write a GGUF file that is there whole or not at all; the same input gives the same bytes.

    Args:
        path: the file.
        metadata: whole numbers are written as 32 bits without a sign, in lists with one.
        tensors: in the order of the file; only one piece of one tensor is in memory at a time.

    Raises:
        ValidationError: a name, value or shape that the format cannot hold; ResourceError: the disk is full.
    """
    write_file_atomically(path, serialize_gguf(metadata, tensors))


def serialize_gguf(
    metadata: Mapping[str, Value], tensors: Sequence[GGUFTensor]
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a GGUF file in pieces."""
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    head += [_string(key) + _value(key, value) for key, value in metadata.items()]
    offset = 0
    for tensor in tensors:
        head.append(_tensor_info(tensor, offset))
        offset += tensor.nbytes + -tensor.nbytes % ALIGNMENT
    start = b"".join(head)
    yield start + bytes(-len(start) % ALIGNMENT)
    for tensor in tensors:
        yield from _data(tensor)


def _data(tensor: GGUFTensor) -> Iterator[bytes | memoryview]:
    written = 0
    for piece in tensor.pieces():
        written += memoryview(piece).nbytes
        yield piece
    if written != tensor.nbytes:
        raise ValidationError(
            f"The tensor {quoted(tensor.name)} gave {written} bytes, its shape needs {tensor.nbytes}."
        )
    yield bytes(-written % ALIGNMENT)


def _tensor_info(tensor: GGUFTensor, offset: int) -> bytes:
    elements = BLOCKS[tensor.type][0]
    if not tensor.shape or tensor.shape[-1] % elements or len(tensor.name.encode()) > LONGEST_TENSOR_NAME:
        raise ValidationError(
            f"The tensor {quoted(tensor.name)} of shape {list(tensor.shape)} cannot be written as "
            f"{tensor.type.name}: rows are whole blocks of {elements}, and a name has at most "
            f"{LONGEST_TENSOR_NAME} bytes.",
            tensor=tensor.name,
        )
    sizes = tensor.shape[::-1]
    return (
        _string(tensor.name)
        + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        + struct.pack("<IQ", tensor.type, offset)
    )


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(key: str, value: Value) -> bytes:
    kind, data = _scalar_or_list(value)
    if data is None:
        raise ValidationError(f"The metadata {quoted(key)} = {quoted(value)} cannot be written to GGUF.")
    return struct.pack("<I", kind) + data


def _scalar_or_list(value: Value) -> tuple[ValueKind, bytes | None]:
    match value:
        case bool():
            return ValueKind.BOOL, struct.pack("<?", value)
        case int():
            return ValueKind.UINT32, struct.pack("<I", value) if 0 <= value < 1 << 32 else None
        case float():
            return ValueKind.FLOAT32, struct.pack("<f", value)
        case str():
            return ValueKind.STRING, _string(value)
    return ValueKind.ARRAY, _array(value)


def _array(values: list[str] | list[int] | list[float]) -> bytes | None:
    kinds = {type(value) for value in values}
    if kinds == {str}:
        kind, data = ValueKind.STRING, b"".join(_string(str(value)) for value in values)
    elif kinds == {int}:
        kind, data = ValueKind.INT32, struct.pack(f"<{len(values)}i", *values)
    elif kinds == {float}:
        kind, data = ValueKind.FLOAT32, struct.pack(f"<{len(values)}f", *values)
    else:  # mixed, or empty: an array must say what it holds
        return None
    return struct.pack("<IQ", kind, len(values)) + data
