"""Measures ternary_matmul on the shapes of a 2-billion-parameter BitNet, beside the machine's two ceilings.

    python benchmarks/kernels.py [--rounds 7] [--isa avx512_vbmi] [--threads 1,2]

Weights are cold: each call uses the next of enough copies to exceed 320 MB. GOPS counts multiplies and adds;
the time includes the quantization of the activations and the call from Python. In every round the read
bandwidth and the int8 peak (vpdpbusd) are measured before each row of the table and each batch has its turn;
a cell is the median of the rounds. "of the bandwidth" is the rate at which packed weights are read, "of the
peak" the rate of multiply-adds, each over what was measured in the same round.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels import _native, cpu
from tritium.kernels.weight import TernaryWeight, padded

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = ((6912, 2560), (2560, 6912), (2560, 2560))  # out x in
BATCHES = (1, 2, 4, 8, 16, 32, 512)
COLD_BYTES = 320 << 20
SECONDS = 0.05  # for each figure of a round


def rate(work: Callable[[], object]) -> float:
    """Calls of `work` per second."""
    work()
    calls, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < SECONDS:
        work()
        calls += 1
    return calls / elapsed


def cold_weights(rows: int, columns: int, *, group_size: int) -> list[cpu.PreparedWeight]:
    """Enough different weights that none is still in a cache when its turn comes again."""
    random = np.random.default_rng(1)
    size = rows * padded(columns) // 4
    codes = np.array(
        [a | b << 2 | c << 4 | d << 6 for a, b, c, d in itertools.product(range(3), repeat=4)], np.uint8
    )
    groups = -(-columns // group_size)
    # Sixteen bits hold them exactly, as they do those that `tritium quantize` writes.
    scales = random.random((rows if groups > 1 else 1, groups), np.float32).astype(np.float16)
    first = codes[random.integers(0, len(codes), size)].reshape(1, rows, -1)
    return [
        cpu.prepare(
            TernaryWeight(
                planes=np.roll(first, copy, axis=1),
                scales=scales.astype(np.float32),
                group_size=group_size,
                in_features=columns,
                out_features=rows,
            )
        )
        for copy in range(COLD_BYTES // size + 1)
    ]


def measure(weights: list[cpu.PreparedWeight], *, batch: int, threads: int) -> float:
    """GOPS of quantizing a batch of activations and multiplying it by one weight after the other."""
    turn = itertools.cycle(weights)
    first = weights[0]
    x = np.random.default_rng(2).standard_normal((batch, first.in_features)).astype(np.float32)

    def work() -> None:
        q, scale = cpu.quantize_activations(x, threads=threads)
        cpu.ternary_matmul(next(turn), q, scale, threads=threads)

    return 2 * batch * first.in_features * first.out_features * rate(work) / 1e9


def row(weights: list[cpu.PreparedWeight], *, threads: int, rounds: int) -> list[str]:
    """The cells of one row: both ceilings, then each batch with its share of the ceiling that binds it."""
    bits = 8 * weights[0].nbytes / weights[0].in_features / weights[0].out_features
    ceilings: list[tuple[float, float]] = []
    figures: dict[int, list[tuple[float, float]]] = {batch: [] for batch in BATCHES}
    for _ in range(rounds):
        bandwidth, peak = (
            _native.read_bandwidth(threads, SECONDS) / 1e9,
            _native.peak_int8(threads, SECONDS) / 1e9,
        )
        ceilings.append((bandwidth, peak))
        for batch in BATCHES:
            gops = measure(weights, batch=batch, threads=threads)
            share = gops / 2 / batch * bits / 8 / bandwidth if batch == 1 else gops / peak
            figures[batch].append((gops, share))
    medians = [
        [statistics.median(column) for column in zip(*figures[batch], strict=True)] for batch in BATCHES
    ]
    bandwidth, peak = (statistics.median(column) for column in zip(*ceilings, strict=True))
    cells = [f"{gops:.0f} ({share:.0%})" for gops, share in medians]
    return [f"{bits:.2f}", f"{bandwidth:.1f}", f"{peak:.0f}", *cells]


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--isa", choices=_native.available_isas(), default=_native.isa())
    parser.add_argument("--threads", default="1,2", help="counts, separated by commas")
    options = parser.parse_args()
    _native.set_isa(options.isa)
    batches = ["batch 1 (of the bandwidth)", *(f"{batch} (of the peak)" for batch in BATCHES[1:])]
    head = [f"{options.isa}: out x in", "group", "threads", "bits", "read GB/s", "peak GOPS", *batches]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for rows, columns in SHAPES:
        for group_size in (columns, 128):
            weights = cold_weights(rows, columns, group_size=group_size)
            group = "row" if group_size == columns else str(group_size)
            for threads in map(int, options.threads.split(",")):
                cells = row(weights, threads=threads, rounds=options.rounds)
                print(
                    "| " + " | ".join([f"{rows} x {columns}", group, str(threads), *cells]) + " |", flush=True
                )


if __name__ == "__main__":
    main()
