"""A GGUF file read with distrust: versions 2 and 3, little-endian, memory-mapped, every claim checked.

The layout is drawn in gguf.py. A type number alone does not say what the bytes are (36, 39 and 42 mean
different things to different programs), so the data of a tensor must also take exactly the bytes that its
type needs: tensors lie one after another, each aligned, with nothing between them and nothing behind them.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from tritium.formats.gguf import ALIGNMENT, BLOCKS, MAGIC, TAILS, TensorType
from tritium.formats.gguf_cursor import Cursor
from tritium.formats.refusal import quoted, refusal
from tritium.formats.weight_file import open_regular_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

VERSIONS = (2, 3)
MOST_DIMENSIONS = 4
LARGEST_TENSOR = 1 << 48  # weights
LARGEST_ALIGNMENT = 1 << 16
SMALLEST_ENTRY = 8 + 4 + 1  # a key without letters, a type, a byte
SMALLEST_TENSOR = 8 + 4 + 8 + 4 + 8
Q2_0_GROUPS: Final[Mapping[int, int]] = {64: 18, 128: 34}  # weights -> bytes of a block
# What other numbers mean to ggml, for the message that refuses them.
UNSUPPORTED: Final[Mapping[int, str]] = {
    3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K",
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M",
    37: "I8_S of bitnet.cpp", 38: "TL1 of bitnet.cpp", 39: "MXFP4, or TL2 of bitnet.cpp", 40: "NVFP4",
    41: "Q1_0", 142: "PQ2_0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: `offset` counts bytes from the start of the file."""

    name: str
    type: TensorType
    shape: tuple[int, ...]  # as numpy has it: the outermost first
    offset: int
    nbytes: int
    block: int  # weights under one scale; all of them for I2_S
    file: Path


class GGUFFile:
    """A verified GGUF file, held open; close it, or use it as a context manager.

    Attributes:
        path: a regular file.
        version: 2 or 3.
        metadata: every key with its value; lists hold one kind of scalar.
        tensors: by name, in the order of their data.

    Raises:
        ValidationError: at construction; names the file, the tensor or the key, and the reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor, size = open_regular_file(path)
        try:
            if size < len(MAGIC):
                raise refusal(f"{size} bytes are too few for a GGUF file", file=path)
            self._map = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        self._view = memoryview(self._map)
        cursor = Cursor(self._view, file=path)
        self.version = _version(cursor)
        tensor_count, entry_count = cursor.number("Q"), cursor.number("Q")
        self.metadata = _metadata(cursor, entry_count)
        self.tensors = _tensors(cursor, tensor_count, alignment=_alignment(self.metadata, file=path))

    def data(self, tensor: StoredTensor) -> NDArray[np.uint8]:
        """Return the bytes of a tensor, read-only and without a copy."""
        return np.frombuffer(self._view, np.uint8, count=tensor.nbytes, offset=tensor.offset)

    def forget(self, tensor: StoredTensor) -> None:
        """Let the system take back the pages of a tensor; it can be read again."""
        begin, end = -(-tensor.offset // mmap.PAGESIZE) * mmap.PAGESIZE, tensor.offset + tensor.nbytes
        if end > begin and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def close(self) -> None:
        """Let go of the file; arrays read before stay valid until they are dropped."""
        self._view = memoryview(b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _version(cursor: Cursor) -> int:
    if cursor.take(len(MAGIC)) != MAGIC:
        raise refusal("does not begin with GGUF: this is not a GGUF file", file=cursor.file)
    version = cursor.number("I")
    if version in VERSIONS:
        return version
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise refusal("is a big-endian GGUF file; only little-endian ones are read", file=cursor.file)
    raise refusal(f"GGUF version {version} is not known, only 2 and 3", file=cursor.file)


def _metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    cursor.require(count, SMALLEST_ENTRY, what="metadata entries")
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text()
        if key in metadata:
            raise refusal(f"the metadata key {quoted(key)} is there twice", file=cursor.file)
        metadata[key] = cursor.value(key)
    return metadata


def _alignment(metadata: Mapping[str, Any], *, file: Path) -> int:
    value = metadata.get("general.alignment", ALIGNMENT)
    if type(value) is not int or not 1 <= value <= LARGEST_ALIGNMENT or value & (value - 1):
        raise refusal(f"general.alignment must be a power of two, not {quoted(value)}", file=file)
    return value


@dataclass(frozen=True, slots=True)
class _Claim:
    """What the header says of a tensor; its offset counts from the start of the data."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int

    def size(self, group: int) -> int | None:
        """Return the bytes it needs, Q2_0 in groups of so many weights; None if rows are no whole blocks."""
        elements, nbytes = self.block(group)
        if self.shape[-1] % elements:
            return None
        return prod(self.shape) // elements * nbytes + TAILS.get(self.type, 0)

    def block(self, group: int) -> tuple[int, int]:
        if self.type is TensorType.Q2_0:
            return group, Q2_0_GROUPS[group]
        return BLOCKS[self.type]


def _tensors(cursor: Cursor, count: int, *, alignment: int) -> dict[str, StoredTensor]:
    cursor.require(count, SMALLEST_TENSOR, what="tensors")
    claims: dict[str, _Claim] = {}
    for _ in range(count):
        claim = _claim(cursor)
        if claim.name in claims:
            raise refusal("is there twice", file=cursor.file, tensor=claim.name)
        if claim.offset % alignment:
            raise refusal(
                f"its offset {claim.offset} is no multiple of the alignment {alignment}",
                file=cursor.file,
                tensor=claim.name,
            )
        claims[claim.name] = claim
    start = cursor.position + -cursor.position % alignment
    if claims and start > cursor.size:
        raise refusal("the file ends before the data of its tensors", file=cursor.file)
    ordered = sorted(claims.values(), key=lambda claim: claim.offset)
    ends = [*(claim.offset for claim in ordered[1:]), cursor.size - start][: len(ordered)]
    group = _group_of_q2_0(ordered, ends, alignment=alignment, file=cursor.file)
    position = 0
    found = {}
    for claim, end in zip(ordered, ends, strict=True):
        if claim.offset != position:
            problem = "overlaps with" if claim.offset < position else "does not begin where it would follow"
            raise refusal(f"its data {problem} the tensor before it", file=cursor.file, tensor=claim.name)
        found[claim.name] = _stored(claim, end, start=start, group=group, alignment=alignment, cursor=cursor)
        position = end
    return found


def _claim(cursor: Cursor) -> _Claim:
    name = cursor.text()
    dimensions = cursor.number("I")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise refusal(f"{dimensions} dimensions are not 1 to 4", file=cursor.file, tensor=name)
    shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
    number = cursor.number("I")
    offset = cursor.number("Q")
    if not all(shape) or prod(shape) > LARGEST_TENSOR:
        raise refusal(f"the shape {list(shape)} is not possible", file=cursor.file, tensor=name)
    if number not in {kind.value for kind in TensorType}:
        kind = f"{UNSUPPORTED.get(number, 'unknown')}, number {number}"
        known = ", ".join(kind.name for kind in TensorType)
        raise refusal(f"its type ({kind}) is not supported; known are {known}", file=cursor.file, tensor=name)
    return _Claim(name, TensorType(number), shape, offset)


def _group_of_q2_0(ordered: list[_Claim], ends: list[int], *, alignment: int, file: Path) -> int:
    """Return the weights under one scale of Q2_0: two programs give number 42 to blocks of different size."""
    pairs = [(claim, end) for claim, end in zip(ordered, ends, strict=True) if claim.type is TensorType.Q2_0]
    fitting = [
        group
        for group in Q2_0_GROUPS
        if all(_fits(claim, end, claim.size(group), alignment=alignment) for claim, end in pairs)
    ]
    if pairs and len(fitting) != 1:
        problem = (
            "is too small to tell groups of 64 weights from groups of 128"
            if fitting
            else "takes a number of bytes that is neither that of groups of 64 weights nor of 128"
        )
        raise refusal(f"Q2_0 {problem}", file=file, tensor=pairs[0][0].name)
    return fitting[0]


def _fits(claim: _Claim, end: int, size: int | None, *, alignment: int) -> bool:
    """Tell whether the data up to `end` is this long, or as long with its padding."""
    if size is None:
        return False
    unused = end - claim.offset - size
    return 0 <= unused < alignment


def _stored(
    claim: _Claim, end: int, *, start: int, group: int, alignment: int, cursor: Cursor
) -> StoredTensor:
    size = claim.size(group)
    block = claim.block(group)[0]
    if size is None:
        raise refusal(
            f"rows of {claim.shape[-1]} are no whole blocks of {block} ({claim.type.name})",
            file=cursor.file,
            tensor=claim.name,
        )
    if not _fits(claim, end, size, alignment=alignment):
        raise refusal(
            f"{claim.type.name} of shape {list(claim.shape)} takes {size} bytes, and the file has "
            f"{end - claim.offset} for it: it is cut short, or another program's type of the same number",
            file=cursor.file,
            tensor=claim.name,
        )
    weights = prod(claim.shape) if claim.type is TensorType.I2_S else block
    return StoredTensor(claim.name, claim.type, claim.shape, start + claim.offset, size, weights, cursor.file)
