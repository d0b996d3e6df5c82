"""A place in the header of a GGUF file that never reads beyond its end."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritium.formats.gguf import ValueKind
from tritium.formats.refusal import quoted, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LARGEST_HEADER = 1 << 28  # bytes of metadata and claims of tensors together
LARGEST_TEXT = 1 << 24  # bytes of one text
LONGEST_LIST = 1 << 22  # values: a vocabulary has a few hundred thousand
NUMBERS: Final[Mapping[ValueKind, str]] = {
    ValueKind.UINT8: "B",
    ValueKind.INT8: "b",
    ValueKind.UINT16: "H",
    ValueKind.INT16: "h",
    ValueKind.UINT32: "I",
    ValueKind.INT32: "i",
    ValueKind.FLOAT32: "f",
    ValueKind.UINT64: "Q",
    ValueKind.INT64: "q",
    ValueKind.FLOAT64: "d",
}


class Cursor:
    """Reads numbers, texts and values one after another; what the file does not hold is refused."""

    def __init__(self, view: memoryview, *, file: Path) -> None:
        self.file = file
        self.position = 0
        self.size = view.nbytes
        self._view = view

    def take(self, count: int) -> memoryview:
        """Return the next `count` bytes."""
        self.require(count, 1, what="bytes")
        piece = self._view[self.position : self.position + count]
        self.position += count
        return piece

    def require(self, count: int, size: int, *, what: str) -> None:
        """Check that `count` things of at least `size` bytes can follow."""
        left = min(self.size, LARGEST_HEADER) - self.position
        if count * size > left:
            raise refusal(f"the header claims {count} {what}; {left} bytes are left", file=self.file)

    def number(self, form: str) -> int:
        """Return the next whole number of this struct format."""
        return int(struct.unpack("<" + form, self.take(struct.calcsize(form)))[0])

    def text(self) -> str:
        """Return the next text."""
        length = self.number("Q")
        if length > LARGEST_TEXT:
            raise refusal(f"a text of {length} bytes is more than {LARGEST_TEXT}", file=self.file)
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError:
            raise refusal(
                f"the text before byte {self.position} is not valid UTF-8", file=self.file
            ) from None

    def value(self, key: str) -> Any:
        """Return the next typed value: a number, a claim, a text, or a list of one of them."""
        kind = self._kind(key)
        if kind is not ValueKind.ARRAY:
            return self._scalars(kind, 1, key)[0]
        inner = self._kind(key)
        if inner is ValueKind.ARRAY:
            raise refusal(f"the metadata {quoted(key)} is a list of lists", file=self.file)
        count = self.number("Q")
        if count > LONGEST_LIST:
            raise refusal(
                f"the metadata {quoted(key)} has {count} values, more than {LONGEST_LIST}", file=self.file
            )
        return self._scalars(inner, count, key)

    def _kind(self, key: str) -> ValueKind:
        number = self.number("I")
        try:
            return ValueKind(number)
        except ValueError:
            raise refusal(
                f"the metadata {quoted(key)} has the unknown type {number}", file=self.file
            ) from None

    def _scalars(self, kind: ValueKind, count: int, key: str) -> list[Any]:
        what = f"values of the metadata {quoted(key)}"
        if kind is ValueKind.STRING:
            self.require(count, 8, what=what)
            return [self.text() for _ in range(count)]
        if kind is ValueKind.BOOL:
            self.require(count, 1, what=what)
            flags = bytes(self.take(count))
            if flags.strip(b"\0\1"):
                raise refusal(f"the metadata {quoted(key)} is neither true nor false", file=self.file)
            return [flag == 1 for flag in flags]
        dtype = np.dtype("<" + NUMBERS[kind])
        self.require(count, dtype.itemsize, what=what)
        values: list[Any] = np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
        return values
