"""The paged cache of keys and values: how one layer's pool lies in memory.

A pool is an array [blocks, heads, 2, numbers]: a block holds 16 positions of one sequence, keys first and
values second, in an order that the kernels read at full speed. `csrc/kv_pages.h` has the drawing.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

KvDtype = Literal["int8", "fp16", "fp32"]
Pool: TypeAlias = "NDArray[np.float32 | np.float16 | np.int8]"

KV_DTYPES: tuple[KvDtype, ...] = ("int8", "fp16", "fp32")
NUMPY_DTYPES: dict[KvDtype, np.dtype[Any]] = {
    "int8": np.dtype(np.int8),
    "fp16": np.dtype(np.float16),
    "fp32": np.dtype(np.float32),
}
BLOCK_SIZE = 16  # positions per block
SCALE_BYTES = 4 * BLOCK_SIZE  # of a page of int8: one float32 per position
LARGEST_INT8_HEAD = 512


def padded_head(head_dim: int) -> int:
    """Returns the numbers that a head takes in a page: its size rounded up to 16."""
    return -(-head_dim // 16) * 16


def pool_shape(dtype: KvDtype, *, num_blocks: int, heads: int, head_dim: int) -> tuple[int, int, int, int]:
    """Returns the shape of a pool, in elements of `dtype`.

    Raises:
        ValidationError: an unknown dtype, or a head too large for int8.
    """
    if dtype not in KV_DTYPES:
        raise ValidationError(f"The key-value cache holds {', '.join(KV_DTYPES)}, not {dtype!r}.")
    if dtype == "int8" and head_dim > LARGEST_INT8_HEAD:
        raise ValidationError(
            f"A head of {head_dim} numbers is too large for an int8 cache (at most {LARGEST_INT8_HEAD}): "
            "use fp16 or fp32."
        )
    scales = SCALE_BYTES if dtype == "int8" else 0
    return (num_blocks, heads, 2, BLOCK_SIZE * padded_head(head_dim) + scales)


def block_bytes(dtype: KvDtype, *, heads: int, head_dim: int) -> int:
    """Returns the bytes of one block of one layer, keys, values and scales."""
    shape = pool_shape(dtype, num_blocks=1, heads=heads, head_dim=head_dim)
    return math.prod(shape) * NUMPY_DTYPES[dtype].itemsize


def new_pool(dtype: KvDtype, *, num_blocks: int, heads: int, head_dim: int) -> Pool:
    """Returns an empty pool in memory of its own: whole pages, large ones where the system has them."""
    shape = pool_shape(dtype, num_blocks=num_blocks, heads=heads, head_dim=head_dim)
    kind = NUMPY_DTYPES[dtype]
    memory = mmap.mmap(-1, max(1, math.prod(shape) * kind.itemsize))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them refuses the advice
            memory.madvise(mmap.MADV_HUGEPAGE)
    pool: Pool = np.frombuffer(memory, dtype=kind, count=math.prod(shape)).reshape(shape)
    return pool


def release_blocks(pool: Pool, *, first: int, count: int) -> None:
    """Give the memory of some blocks of a pool of `new_pool` back to the system; they read as zeros then.

    Pages that they share with other blocks stay. A system that cannot take memory back keeps it.
    """
    memory = _memory_of(pool)
    if memory is None or not hasattr(mmap, "MADV_REMOVE"):
        return
    of_block = pool.nbytes // len(pool)
    begin = -(-first * of_block // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (first + count) * of_block // mmap.PAGESIZE * mmap.PAGESIZE
    if end > begin:
        with contextlib.suppress(OSError):
            # The map is shared memory: pages that are only dropped would stay where they are.
            memory.madvise(mmap.MADV_REMOVE, begin, end - begin)


def _memory_of(pool: Pool) -> mmap.mmap | None:
    owner: object = pool
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner if isinstance(owner, mmap.mmap) else None
