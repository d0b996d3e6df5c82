"""The safetensors format: a header read with distrust, and a writer whose bytes depend on the content alone.

bfloat16 has no numpy type; everywhere in this room a uint16 array means bfloat16 bits. The format's own
U16 is therefore refused: no model uses it, and the two could not be told apart.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.mapped_pages import release_pages
from tritium.formats.refusal import quoted, refusal
from tritium.formats.storage import write_file_atomically
from tritium.formats.strict_json import LARGEST_JSON, parse_json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

LENGTH_BYTES = 8
PIECE_BYTES = 1 << 26  # written at a time
MOST_DIMENSIONS = 8
LFS_POINTER = b"version "  # the first bytes of a pointer; as a length they would be absurd
LARGEST_TENSOR = 1 << 56  # elements; eight bytes each still fit the sizes of numpy and of the system
METADATA_KEY = "__metadata__"
DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I16": np.dtype("<i2"),
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}
NAMES: Final[Mapping[np.dtype[Any], str]] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `offset` counts bytes from the start of `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


def read_header(descriptor: int, *, file: Path, size: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Read and check the header of an open file of `size` bytes; no data is read.

    Returns:
        The tensors by name in the order of their offsets, and the text metadata.

    Raises:
        ValidationError: anything in the header does not agree with itself or with the size of the file.
    """
    prefix = os.pread(descriptor, LENGTH_BYTES, 0)
    if len(prefix) < LENGTH_BYTES:
        raise refusal(f"{size} bytes are too few for a safetensors file", file=file)
    if prefix == LFS_POINTER:
        raise refusal("is a Git LFS pointer and not the weights: fetch them with git lfs pull", file=file)
    length = int.from_bytes(prefix, "little")
    if length > size - LENGTH_BYTES:
        raise refusal(f"the header claims {length} bytes, the file has {size}", file=file)
    if length > LARGEST_JSON:
        raise refusal(f"a header of {length} bytes is more than the limit of {LARGEST_JSON}", file=file)
    header = os.pread(descriptor, length, LENGTH_BYTES)
    if not header.startswith(b"{"):
        raise refusal("the header does not begin with '{'; this is not a safetensors file", file=file)
    entries = parse_json_object(header, file=file)
    metadata = _metadata(entries.pop(METADATA_KEY, {}), file=file)
    start = LENGTH_BYTES + length
    tensors = [_tensor_info(name, entry, file=file, start=start, end=size) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_seamless(tensors, file=file, start=start, end=size)
    return {tensor.name: tensor for tensor in tensors}, metadata


def _metadata(value: object, *, file: Path) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise refusal(f"{METADATA_KEY} must map text to text", file=file)
    return value


def _tensor_info(name: str, entry: object, *, file: Path, start: int, end: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise refusal("its entry must have exactly dtype, shape and data_offsets", file=file, tensor=name)
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refusal(f"the dtype {quoted(dtype)} is not supported", file=file, tensor=name)
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or len(shape) > MOST_DIMENSIONS:
        raise refusal(
            f"the shape {quoted(shape)} is not a list of at most {MOST_DIMENSIONS} sizes",
            file=file,
            tensor=name,
        )
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:  # noqa: PLR2004 - a pair
        raise refusal(
            f"the data_offsets {quoted(offsets)} are not a begin and an end", file=file, tensor=name
        )
    begin, nbytes = start + offsets[0], offsets[1] - offsets[0]
    if start + offsets[1] > end:
        raise refusal(
            f"its data ends {start + offsets[1] - end} bytes after the file", file=file, tensor=name
        )
    if math.prod(max(size, 1) for size in shape) > LARGEST_TENSOR:  # a zero must not hide an overflow
        raise refusal(f"the shape {quoted(shape)} is too large", file=file, tensor=name)
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if needed != nbytes:
        raise refusal(
            f"{dtype} of shape {quoted(shape)} takes {needed} bytes, not {nbytes}", file=file, tensor=name
        )
    return TensorInfo(name=name, dtype=dtype, shape=tuple(shape), file=file, offset=begin, nbytes=nbytes)


def _are_sizes(value: object) -> bool:
    # bool is an int to Python
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in value)


def _check_seamless(tensors: list[TensorInfo], *, file: Path, start: int, end: int) -> None:
    position = start
    for tensor in tensors:
        if tensor.offset < position:
            raise refusal("its data overlaps with another tensor's", file=file, tensor=tensor.name)
        if tensor.offset > position:
            raise refusal(
                f"{tensor.offset - position} bytes before it are unused", file=file, tensor=tensor.name
            )
        position += tensor.nbytes
    if position != end:
        raise refusal(f"{end - position} bytes after the last tensor are unused", file=file)


def write_safetensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a file that is there whole or not at all; uint16 arrays are bfloat16 bits.

    The same tensors and metadata give the same bytes. Memory-mapped arrays are copied piece by piece.

    Raises:
        ValidationError: a dtype the format does not know; ResourceError: the disk is full.
    """
    write_file_atomically(path, serialize_safetensors(tensors, file=path, metadata=metadata or {}))


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: `pieces` yields its rows, piece after piece, when its turn comes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[NDArray[Any]]]

    @classmethod
    def of(cls, values: NDArray[Any]) -> PlannedTensor:
        """Plan to write values that are there already."""
        return cls(values.dtype, values.shape, lambda: [values])

    @property
    def nbytes(self) -> int:
        """The bytes its data takes."""
        return math.prod(self.shape) * self.dtype.itemsize


def serialize_safetensors(
    tensors: Mapping[str, NDArray[Any]], *, file: Path, metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file in pieces; of memory-mapped tensors no pages stay behind."""
    planned = {name: PlannedTensor.of(tensor) for name, tensor in tensors.items()}
    yield from serialize_planned(planned, file=file, metadata=metadata)


def serialize_planned(
    tensors: Mapping[str, PlannedTensor], *, file: Path, metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file; only one piece of one tensor is in memory at a time.

    Raises:
        ValidationError: a dtype the format does not know, or a tensor gives other bytes than planned.
    """
    # Wide types first: every tensor is then aligned to its own item without a gap.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {METADATA_KEY: dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name in order:
        header[name] = _entry(tensors[name], name=name, file=file, position=position)
        position += tensors[name].nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % LENGTH_BYTES)
    yield len(text).to_bytes(LENGTH_BYTES, "little") + text
    for name in order:
        yield from _data(tensors[name], name=name, file=file)


def _data(tensor: PlannedTensor, *, name: str, file: Path) -> Iterator[memoryview]:
    written = 0
    for piece in tensor.pieces():
        written += piece.nbytes if piece.dtype == tensor.dtype else tensor.nbytes + 1
        if written > tensor.nbytes:
            break
        if piece.size:
            yield from _pieces(np.ascontiguousarray(piece).reshape(-1).view(np.uint8))
    if written != tensor.nbytes:
        raise ValidationError(f"{file.name}: the tensor {quoted(name)} is not what was planned of it")


def _pieces(flat: NDArray[np.uint8]) -> Iterator[memoryview]:
    for start in range(0, flat.size, PIECE_BYTES):
        piece = flat[start : start + PIECE_BYTES]
        yield piece.data
        release_pages(piece)


def _entry(tensor: PlannedTensor, *, name: str, file: Path, position: int) -> dict[str, Any]:
    dtype = NAMES.get(tensor.dtype)
    if dtype is None or name == METADATA_KEY:
        raise ValidationError(f"{file.name}: a tensor {quoted(name)} of {tensor.dtype} cannot be written")
    return {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [position, position + tensor.nbytes]}
