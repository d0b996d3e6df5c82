"""One safetensors file held open: verified once, then read through the same descriptor."""

from __future__ import annotations

import mmap
import os
import stat
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from tritium.formats.mapped_pages import release_pages
from tritium.formats.refusal import refusal
from tritium.formats.safetensors import DTYPES, TensorInfo, read_header

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray


class TensorFile(Protocol):
    """One open file that gives the tensors it holds."""

    def read(self, tensor: TensorInfo) -> NDArray[Any]:
        """Return a tensor; uint16 means bfloat16 bits."""
        ...

    def read_rows(self, tensor: TensorInfo, rows: Sequence[int] | range) -> NDArray[Any]:
        """Return rows of a matrix by number, and leave nothing of the others in memory."""
        ...

    def forget(self, tensor: TensorInfo) -> None:
        """Let the system take back its pages."""
        ...

    def close(self) -> None:
        """Close the file; arrays read before stay valid."""
        ...


class WeightFile:
    """A verified safetensors file; a file renamed over it later cannot change what is read.

    A mapped file must not be cut in place while it is used: the system ends a process that reads beyond it.

    Args:
        path: a regular file.
        memory_map: read through the page cache without a copy, instead of into memory of our own.

    Raises:
        ValidationError: the file cannot be opened or its header is wrong.
    """

    def __init__(self, path: Path, *, memory_map: bool) -> None:
        self.path = path
        self._descriptor, self.size = open_regular_file(path)
        try:
            self.tensors, self.metadata = read_header(self._descriptor, file=path, size=self.size)
            self._map = (
                mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ) if memory_map else None
            )
        except BaseException:
            os.close(self._descriptor)
            raise

    def read(self, tensor: TensorInfo) -> NDArray[Any]:
        """Return the tensor as a read-only, aligned array of its own dtype (BF16 as uint16 bits)."""
        dtype = DTYPES[tensor.dtype]
        if self._map is None:
            buffer = bytearray(tensor.nbytes)
            self._read_into(memoryview(buffer), tensor, offset=tensor.offset)
            flat = np.frombuffer(buffer, dtype=dtype)
        else:
            count = tensor.nbytes // dtype.itemsize
            flat = np.frombuffer(self._map, dtype=dtype, count=count, offset=tensor.offset)
            if not flat.flags.aligned:
                flat = flat.copy()
        array = flat.reshape(tensor.shape)
        array.flags.writeable = False
        return array

    def read_rows(self, tensor: TensorInfo, rows: Sequence[int] | range) -> NDArray[Any]:
        """Return rows of a matrix [V, K] by number, in memory of their own: [T, K]; no map is touched."""
        dtype, columns = DTYPES[tensor.dtype], tensor.shape[1]
        chosen = np.empty((len(rows), columns), dtype)
        width = columns * dtype.itemsize
        if isinstance(rows, range) and rows.step == 1 and chosen.size:
            view = chosen.data.cast("B")
            self._read_into(view, tensor, offset=tensor.offset + rows.start * width)
        elif width:
            for row, place in zip(rows, chosen, strict=True):
                self._read_into(place.data.cast("B"), tensor, offset=tensor.offset + row * width)
        return chosen

    def _read_into(self, view: memoryview, tensor: TensorInfo, *, offset: int) -> None:
        done = 0
        while done < view.nbytes:
            step = os.preadv(self._descriptor, [view[done:]], offset + done)
            if step == 0:  # somebody cut the file after it was verified
                raise refusal("the file ends before its data", file=self.path, tensor=tensor.name)
            done += step

    def forget(self, tensor: TensorInfo) -> None:
        """Let the system take back the pages of a mapped tensor; it can be read again."""
        if self._map is not None and tensor.nbytes:
            flat = np.frombuffer(self._map, np.uint8, count=tensor.nbytes, offset=tensor.offset)
            release_pages(flat)

    def close(self) -> None:
        """Close the file; arrays that were mapped from it stay valid until they are dropped."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._map = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_regular_file(path: Path) -> tuple[int, int]:
    """Open a regular file for reading and return its descriptor and size; never blocks on a pipe or a device.

    Raises:
        ValidationError: there is no such file, it is not a regular file, or it may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the name is not possible"
        raise refusal(f"cannot be opened: {reason}", file=path) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise refusal("is not a regular file", file=path)
    return descriptor, status.st_size


def read_small_file(path: Path, *, limit: int) -> bytes:
    """Return the whole content of a regular file of at most `limit` bytes.

    Raises:
        ValidationError: it cannot be read or is larger.
    """
    descriptor, size = open_regular_file(path)
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - the descriptor was opened and checked above
        if size > limit:
            raise refusal(f"{size} bytes are more than the limit of {limit}", file=path)
        return stream.read(limit)
