"""What the C library's allocator does with memory that is freed."""

from __future__ import annotations

import contextlib
import ctypes
import sys

LARGE = 5 << 20  # bytes; weights worked on piece by piece take less, and are soon asked for again
KEPT = 16 << 20  # of what is freed at the end of the heap
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def return_large_arrays() -> None:
    """Have arrays of 5 MiB and more go back to the system when they are freed, in all of this process.

    By itself glibc keeps arrays of up to 32 MiB once one of them was freed: those of one layer leave holes
    that those of the next do not fit into. Other systems stay as they are.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            for setting, value in ((_M_MMAP_THRESHOLD, LARGE), (_M_TRIM_THRESHOLD, KEPT)):
                ctypes.CDLL(None).mallopt(setting, value)
