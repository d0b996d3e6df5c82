"""Measures ternary_matmul on the shapes of a 2-billion-parameter BitNet, beside the memory's bandwidth.

    python benchmarks/kernels.py [--seconds 0.4] [--isa avx512_vnni] [--busy]

Weights are cold: each call uses the next of enough copies to exceed 320 MB. GOPS counts multiplies and adds;
the time includes the quantization of the activations. Bandwidth is that of reading as much memory by numpy's
sum over int64, on one thread, measured just before each row of the table. On a busy machine, --busy counts
processor time instead of wall time, which is fair for one thread only.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels import _native, cpu
from tritium.kernels.weight import TernaryWeight, padded

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = ((6912, 2560), (2560, 6912), (2560, 2560))  # out x in
BATCHES = (1, 2, 4, 8, 9, 16, 32, 512)
THREADS = (1, 2)
COLD_BYTES = 320 << 20


def rate(
    work: Callable[[], object], *, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Calls of `work` per second of `clock`: the best of three rounds."""
    work()
    best = 0.0
    for _ in range(3):
        calls, begin = 0, clock()
        while (elapsed := clock() - begin) < seconds / 3:
            work()
            calls += 1
        best = max(best, calls / elapsed)
    return best


def cold_weights(rows: int, columns: int, *, group_size: int) -> list[cpu.PreparedWeight]:
    """Enough different weights that none is still in a cache when its turn comes again."""
    random = np.random.default_rng(1)
    size = rows * padded(columns) // 4
    codes = np.array(
        [a | b << 2 | c << 4 | d << 6 for a, b, c, d in itertools.product(range(3), repeat=4)], np.uint8
    )
    groups = -(-columns // group_size)
    first = codes[random.integers(0, len(codes), size)].reshape(1, rows, -1)
    return [
        cpu.prepare(
            TernaryWeight(
                planes=np.roll(first, copy, axis=1),
                scales=random.random((rows if groups > 1 else 1, groups), dtype=np.float32),
                group_size=group_size,
                in_features=columns,
                out_features=rows,
            )
        )
        for copy in range(COLD_BYTES // size + 1)
    ]


def read_bandwidth(clock: Callable[[], float]) -> float:
    """Bytes per second that one thread reads from memory."""
    memory = np.ones(COLD_BYTES // 8, dtype=np.int64)
    return memory.nbytes * rate(memory.sum, seconds=0.3, clock=clock)


def measure(
    weights: list[cpu.PreparedWeight], *, batch: int, threads: int, seconds: float, clock: Callable[[], float]
) -> float:
    """GOPS of quantizing a batch of activations and multiplying it by one weight after the other."""
    turn = itertools.cycle(weights)
    x = np.random.default_rng(2).standard_normal((batch, weights[0].in_features)).astype(np.float32)

    def work() -> None:
        q, scale = cpu.quantize_activations(x)
        cpu.ternary_matmul(next(turn), q, scale, threads=threads)

    operations = 2 * batch * weights[0].in_features * weights[0].out_features
    return operations * rate(work, seconds=seconds, clock=clock) / 1e9


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.4, help="time for each figure")
    parser.add_argument("--isa", choices=_native.available_isas(), default=_native.isa())
    parser.add_argument("--busy", action="store_true", help="count processor time, one thread only")
    options = parser.parse_args()
    counts = (1,) if options.busy else THREADS
    clock = time.thread_time if options.busy else time.perf_counter
    _native.set_isa(options.isa)
    head = [f"batch {batch}, {threads} threads" for batch in BATCHES for threads in counts]
    print(f"| {options.isa}: out x in | group | read GB/s |", " | ".join(head), "|")
    print("|" + "---|" * (3 + len(head)))
    for rows, columns in SHAPES:
        for group_size in (columns, 128):
            weights = cold_weights(rows, columns, group_size=group_size)
            bandwidth = read_bandwidth(clock) / 1e9
            figures = [
                measure(weights, batch=batch, threads=threads, seconds=options.seconds, clock=clock)
                for batch in BATCHES
                for threads in counts
            ]
            group = "row" if group_size == columns else str(group_size)
            cells = " | ".join(f"{figure:.0f}" for figure in figures)
            print(f"| {rows} x {columns} | {group} | {bandwidth:.1f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
