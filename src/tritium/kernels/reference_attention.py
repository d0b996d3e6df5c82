"""The numpy truth of attention, in the order of sums that the native kernels keep: equal to the bit.

A sequence is cut into tiles of 64 positions, counted from its first; a softmax runs along the tiles of a
segment of 512 positions, and segments are merged in rising order. Nothing else decides a result.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tritium.kernels.pages import BLOCK_SIZE, SCALE_BYTES, Pool, new_pool, padded_head
from tritium.kernels.reference_functions import bound, exponential

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32: TypeAlias = NDArray[np.float32]
    I32: TypeAlias = NDArray[np.int32]
    I64: TypeAlias = NDArray[np.int64]

TILE = 64
SEGMENT = 512
_WORD = np.float32(32767)
_NOTHING = np.float32(1e-30)


def paged_attention(
    q: F32,
    pool: Pool,
    *,
    block_tables: I32,
    query_starts: I32,
    context_lengths: I32,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    threads: int = 1,
) -> F32:
    """Causal attention of q [T, H, D] over the pages of its sequences: float32 [T, H, D]."""
    del threads
    out = np.zeros_like(q)
    for table, (start, stop), context in zip(
        block_tables, itertools.pairwise(query_starts), context_lengths, strict=True
    ):
        lengths = np.arange(context - (stop - start), context) + 1
        starts = np.maximum(lengths - (window or context), 0)
        blocks = table[: -(-int(context) // BLOCK_SIZE)]
        out[start:stop] = _attend_sequence(q[start:stop], pool, blocks, starts, lengths, scale=scale, cap=cap)
    return out


def ragged_attention(q: F32, k: F32, v: F32, *, sequence_starts: I32, scale: float, threads: int = 1) -> F32:
    """Attention in both directions inside each sequence of q, k, v [T, H, D]: float32 [T, H, D]."""
    del threads
    out = np.zeros_like(q)
    for start, stop in itertools.pairwise(sequence_starts):
        length = int(stop - start)
        blocks = np.arange(-(-length // BLOCK_SIZE), dtype=np.int32)
        pool = new_pool("fp32", num_blocks=len(blocks), heads=q.shape[1], head_dim=q.shape[2])
        write_kv(k[start:stop], v[start:stop], pool, np.arange(length))
        bounds = np.zeros(length, np.int64), np.full(length, length)
        out[start:stop] = _attend_sequence(q[start:stop], pool, blocks, *bounds, scale=scale, cap=None)
    return out


def write_kv(k: F32, v: F32, pool: Pool, slots: NDArray[np.int64], *, threads: int = 1) -> None:
    """Writes k and v [T, KVH, D] into a pool at slots [T]; slot = block x 16 + offset."""
    del threads
    dim = k.shape[2]
    for row, slot in enumerate(slots):
        block, offset = divmod(int(slot), BLOCK_SIZE)
        for head in range(pool.shape[1]):
            for side, numbers in enumerate((k[row, head], v[row, head])):
                half = pool[block, head, side]
                stored = np.zeros(padded_head(dim), half.dtype)
                stored[:dim] = _as_stored(numbers, half, offset)
                place = _place(half, offset, is_value=bool(side))
                place[...] = stored.reshape(place.shape)


def _place(half: Pool, offset: int, *, is_value: bool) -> Pool:
    """Where one position's numbers lie in half a page: a view."""
    if half.dtype != np.int8:
        return half.reshape(BLOCK_SIZE, -1)[offset] if is_value else half.reshape(-1, BLOCK_SIZE)[:, offset]
    numbers = half[SCALE_BYTES:]
    if is_value:
        return numbers.reshape(BLOCK_SIZE // 2, -1, 2)[offset // 2, :, offset % 2]
    return numbers.reshape(-1, BLOCK_SIZE, 2)[:, offset]


def _as_stored(numbers: F32, half: Pool, offset: int) -> Pool:
    if half.dtype == np.float16:
        limit = np.float32(65504)
        bounded = np.where(np.isinf(numbers), numbers, np.clip(numbers, -limit, limit))
        return bounded.astype(np.float16)
    if half.dtype == np.float32:
        return numbers
    largest = np.abs(numbers).max()
    is_nothing = largest < _NOTHING
    scale = np.float32(0) if is_nothing else np.where(np.isfinite(largest), largest / np.float32(127), np.nan)
    half[:SCALE_BYTES].view(np.float32)[offset] = scale
    factor = np.float32(127) / largest if scale > 0 else np.float32(0)
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.rint(numbers * factor)).astype(np.int8)


def _fold(values: F32) -> F32:
    """Sums sixteen lanes [..., 16] by halves."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        values = values[..., :half] + values[..., half:]
    return values[..., 0]


@dataclass
class _State:
    """A softmax so far: largest score [R], sum of exponentials [R], mixed values [R, D]."""

    largest: F32
    total: F32
    mixed: F32

    @classmethod
    def empty(cls, rows: int, dim: int) -> _State:
        largest = np.full(rows, -np.inf, np.float32)
        return cls(largest, np.zeros(rows, np.float32), np.zeros((rows, dim), np.float32))

    def merge(self, later: _State, rows: NDArray[np.bool_]) -> None:
        top = np.maximum(self.largest, later.largest)[rows]
        kept, added = exponential(self.largest[rows] - top), exponential(later.largest[rows] - top)
        self.largest[rows] = top
        self.total[rows] = self.total[rows] * kept + later.total[rows] * added
        self.mixed[rows] = self.mixed[rows] * kept[:, None] + later.mixed[rows] * added[:, None]


class _Head:
    """The keys and values of one head of one sequence, as they lie in a pool."""

    def __init__(
        self, pool: Pool, blocks: I32, head: int, dim: int, *, scale: np.float32, cap: float | None
    ) -> None:
        self.scale, self.cap = scale, cap
        self.keys, self.key_scales = self._read(pool[blocks, head, 0], dim, is_value=False)
        self.values, self.value_scales = self._read(pool[blocks, head, 1], dim, is_value=True)

    @staticmethod
    def _read(halves: Pool, dim: int, *, is_value: bool) -> tuple[F32, F32 | None]:
        places = [_place(half, i, is_value=is_value) for half in halves for i in range(BLOCK_SIZE)]
        numbers = np.stack([place.reshape(-1)[:dim] for place in places]).astype(np.float32)
        if halves.dtype != np.int8:
            return numbers, None
        return numbers, np.concatenate([half[:SCALE_BYTES].view(np.float32) for half in halves])

    def scores(self, q: F32, begin: int, end: int) -> F32:
        """Scores [R, end - begin] of queries [R, D], bounded where there is a cap."""
        products = self._products(q, begin, end)
        return products if self.cap is None else bound(products, cap=self.cap)

    def _products(self, q: F32, begin: int, end: int) -> F32:
        keys = self.keys[begin:end]
        if self.key_scales is None:
            sums = np.zeros((2, len(q), end - begin), np.float32)  # of even and of odd dimensions
            for d in range(q.shape[1]):
                sums[d % 2] += q[:, d, None] * keys[:, d]
            products: F32 = (sums[0] + sums[1]) * self.scale
            return products
        words, scales = _to_words(q)
        exact = (words.astype(np.int64) @ keys.astype(np.int64).T).astype(np.float32)
        return exact * (self.key_scales[begin:end] * (scales * self.scale)[:, None])

    def mixed(self, weights: F32, begin: int, end: int) -> F32:
        """Values [R, D] weighted by [R, end - begin]."""
        values = self.values[begin:end]
        if self.value_scales is None:
            sums = np.zeros((len(weights), values.shape[1]), np.float32)
            for position in range(end - begin):
                sums += weights[:, position, None] * values[position]
            return sums
        words, scales = _to_words(weights * self.value_scales[begin:end])
        exact = (words.astype(np.int64) @ values.astype(np.int64)).astype(np.float32)
        return exact * scales[:, None]


def _to_words(rows: F32) -> tuple[F32, F32]:
    """Rounds rows [R, N] to 16 bits, relative to each one's largest magnitude; and what a unit stands for."""
    top = np.abs(rows).max(axis=1, initial=0)
    top = np.where(np.isfinite(top), top, np.float32(np.nan))
    is_zero = ~(top >= _NOTHING)
    with np.errstate(divide="ignore"):
        factor = np.where(is_zero, np.float32(0), _WORD / top)
    scales = np.where(is_zero, top * np.float32(0), top / _WORD)
    return np.rint(np.nan_to_num(rows * factor[:, None])), scales


@dataclass(frozen=True)
class _Rows:
    """Queries [R, D] that see the positions from `starts` [R] to `lengths` [R] of one sequence."""

    q: F32
    starts: I64
    lengths: I64

    def seeing(self, begin: int, end: int) -> NDArray[np.bool_]:
        """Which rows see one of these positions."""
        return (self.lengths > begin) & (self.starts < end)


def _attend_sequence(
    q: F32, pool: Pool, blocks: I32, starts: I64, lengths: I64, *, scale: float, cap: float | None
) -> F32:
    """Queries [Q, H, D] that see the positions from `starts` [Q] to `lengths` [Q] of one sequence."""
    queries, heads, dim = q.shape
    shared = heads // pool.shape[1]
    out = np.zeros_like(q)
    for head in range(pool.shape[1] if queries else 0):
        kept = _Head(pool, blocks, head, dim, scale=np.float32(scale), cap=cap)
        own = slice(head * shared, (head + 1) * shared)
        rows = np.ascontiguousarray(q[:, own]).reshape(-1, dim)
        state = _attend_head(_Rows(rows, np.repeat(starts, shared), np.repeat(lengths, shared)), kept)
        out[:, own] = (state.mixed / state.total[:, None]).reshape(queries, shared, dim)
    return out


def _attend_head(rows: _Rows, head: _Head) -> _State:
    state, longest = _State.empty(*rows.q.shape), int(rows.lengths.max())
    for segment in range(0, longest, SEGMENT):
        part = _State.empty(*rows.q.shape) if segment else state
        for begin in range(segment, min(segment + SEGMENT, longest), TILE):
            if rows.seeing(begin, begin + TILE).any():
                _attend_tile(rows, head, begin, part)
        if segment:
            state.merge(part, rows.seeing(segment, segment + SEGMENT))
    return state


def _attend_tile(rows: _Rows, head: _Head, begin: int, state: _State) -> None:
    seeing = rows.seeing(begin, begin + TILE)
    starts, lengths = rows.starts[seeing, None], rows.lengths[seeing, None]
    end = min(begin + TILE, int(lengths.max()))
    scores = np.full((len(lengths), TILE), -np.inf, np.float32)
    scores[:, : end - begin] = head.scores(rows.q[seeing], begin, end)
    positions = np.arange(begin, begin + TILE)
    scores[(positions < starts) | (positions >= lengths)] = -np.inf
    before = state.largest[seeing]
    top = np.maximum(before, scores.max(axis=1))
    kept = np.where(top > before, exponential(before - top), np.float32(1))
    weights = exponential(scores - top[:, None])
    lanes = weights.reshape(-1, 4, 16)
    total = _fold((lanes[:, 0] + lanes[:, 1]) + (lanes[:, 2] + lanes[:, 3]))
    state.largest[seeing] = top
    state.total[seeing] = state.total[seeing] * kept + total
    mixed = head.mixed(weights[:, : end - begin], begin, end)
    state.mixed[seeing] = state.mixed[seeing] * kept[:, None] + mixed
