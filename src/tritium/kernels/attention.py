"""Attention over the paged cache and inside whole sequences; the twins are in `tritium.kernels.reference`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.kernels import _native
from tritium.kernels.checks import refuses_bad_arrays
from tritium.kernels.device import use_detected_isa

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tritium.kernels.pages import Pool

use_detected_isa()


@refuses_bad_arrays
def paged_attention(
    q: NDArray[np.float32],
    pool: Pool,
    *,
    block_tables: NDArray[np.int32],
    query_starts: NDArray[np.int32],
    context_lengths: NDArray[np.int32],
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Causal attention of queries over the pages of their own sequences: float32 [T, H, D].

    Query i of n in sequence b stands at position context_lengths[b] - n + i and sees all up to itself, or the
    last `window` of them.

    Args:
        q: float32 [T, H, D], the queries of all sequences one after the other.
        pool: one layer's keys and values as `tritium.kernels.pages.new_pool` lays them out; H is a multiple
            of its heads.
        block_tables: int32 [B, most blocks]; entries behind a sequence's length are not read.
        query_starts: int32 [B + 1], where each sequence's queries begin.
        context_lengths: int32 [B], positions of each sequence with its queries.
        scale: factor on the scores.
        window: how many positions a query sees, its own the last; None: all.
        cap: what scores are bounded by, s becomes cap x tanh(s / cap); None: they are not.
        threads: threads to use.
    """
    reach = 0 if window is None else window or -1  # there is no window of 0, and no cap
    bounded = 0.0 if cap is None else cap or -1.0
    return _native.paged_attention(
        q, pool, block_tables, query_starts, context_lengths, scale, reach, bounded, threads
    )


@refuses_bad_arrays
def write_kv(
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    pool: Pool,
    slots: NDArray[np.int64],
    *,
    threads: int = 1,
) -> None:
    """Writes k and v [T, KVH, D] into a pool at slots int64 [T]; slot = block x 16 + offset.

    An int8 pool keeps a scale per position and head, absmax / 127; a float16 pool saturates at 65504.
    """
    _native.write_kv(k, v, pool, slots, threads)


@refuses_bad_arrays
def ragged_attention(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    *,
    sequence_starts: NDArray[np.int32],
    scale: float,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Two-way attention inside each sequence of q, k, v [T, H, D]; sequence_starts is int32 [B + 1]."""
    return _native.ragged_attention(q, k, v, sequence_starts, scale, threads)
