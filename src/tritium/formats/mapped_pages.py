"""Pages of memory-mapped arrays: given back once they are read, so that a large file never lies in memory."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def release_pages(array: NDArray[Any]) -> None:
    """Let the system take back the pages of a contiguous array that is mapped from a file, read-only.

    Whoever reads it again gets them again. Other arrays are left as they are.
    """
    owner: object = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if not isinstance(owner, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    if not memoryview(owner).readonly:
        return  # what was written to a private map would be lost
    begin = array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
    first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    length = begin + array.nbytes - first
    if length > 0:  # what shares its last page with a neighbour is read again from the page cache
        owner.madvise(mmap.MADV_DONTNEED, first, length)
