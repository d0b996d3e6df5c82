"""Ternary products on cold weights, run as a forward step runs them: recorded in a plan."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels import cpu
from tritium.kernels.weight import TernaryWeight, padded
from tritium.model.batch import ForwardBatch, KVCache
from tritium.model.recorder import RecordedForward

if TYPE_CHECKING:
    from collections.abc import Iterator

COLD_BYTES = 320 << 20
PRODUCTS = 8  # of a plan
MOST_ROWS = 512


class ColdProducts:
    """Products of one shape, each with rounding its inputs and adding them up; no weight is still in a cache
    when its turn comes again.

    Args:
        rows: outputs.
        columns: inputs.
        group_size: inputs that share a scale; None: one scale for all.
    """

    def __init__(self, rows: int, columns: int, *, group_size: int | None = None) -> None:
        weights = list(_cold_weights(rows, columns, group_size=group_size))
        self.bits = 8 * weights[0].nbytes / rows / columns
        inputs = np.random.default_rng(2).standard_normal((MOST_ROWS, columns)).astype(np.float32)
        self._operations = 2 * rows * columns * PRODUCTS
        self._cache = KVCache(num_layers=1, num_blocks=MOST_ROWS // 16, kv_heads=1, head_dim=32)
        starts = range(0, len(weights), PRODUCTS)
        plans = [_recorded(weights[i : i + PRODUCTS], inputs) for i in starts]
        for plan in plans:  # each takes the memory that it needs
            plan(_rows(MOST_ROWS), self._cache, threads=2)
        self._plans = itertools.cycle(plans)

    def gops(self, *, batch: int, threads: int, seconds: float) -> float:
        """Billions of multiplies and adds per second."""
        rows = _rows(batch)
        next(self._plans)(rows, self._cache, threads=threads)
        calls, begin = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < seconds:
            next(self._plans)(rows, self._cache, threads=threads)
            calls += 1
        return calls * batch * self._operations / elapsed / 1e9


def _rows(batch: int) -> ForwardBatch:
    rows = ForwardBatch.of_sequences([np.arange(batch)])
    return replace(rows, logit_rows=np.array([batch - 1], np.int32))


def _recorded(weights: list[cpu.PreparedWeight], inputs: np.ndarray) -> RecordedForward:
    plan = cpu.Plan(MOST_ROWS)
    x = plan.embed(inputs)
    products = [plan.ternary(plan.quantize(x), weight, None) for weight in weights]
    plan.seal(plan.logit_rows(products[-1]))
    return RecordedForward(plan)


def _cold_weights(rows: int, columns: int, *, group_size: int | None) -> Iterator[cpu.PreparedWeight]:
    random = np.random.default_rng(1)
    size = rows * padded(columns) // 4
    codes = np.array(
        [a | b << 2 | c << 4 | d << 6 for a, b, c, d in itertools.product(range(3), repeat=4)], np.uint8
    )
    first = codes[random.integers(0, len(codes), size)].reshape(1, rows, -1)
    groups = -(-columns // (group_size or columns))
    # Sixteen bits hold them exactly, as they do those that `tritium quantize` writes.
    scales = random.random((rows if groups > 1 else 1, groups), np.float32).astype(np.float16)
    plans = COLD_BYTES * 5 // (rows * columns) // PRODUCTS + 1
    for copy in range(plans * PRODUCTS):
        yield cpu.prepare(
            TernaryWeight(
                planes=np.roll(first, copy, axis=1),
                scales=scales.astype(np.float32),
                group_size=group_size or columns,
                in_features=columns,
                out_features=rows,
            )
        )
