"""Measures the product with a coded matrix (the head of a language model) beside the memory's bandwidth.

    python benchmarks/head.py [--rounds 7] [--isa avx512_vnni]

Matrices are cold: each call uses the next of enough copies to exceed 320 MB. The time includes the
quantization of the activations. Rounds are interleaved: the bandwidth of reading as much memory by numpy's
sum over int64, on as many threads, then each batch. The table holds medians, and GB/s in per cent of it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels import _native, cpu
from tritium.kernels.coded import CODE_BITS, CodedWeight, tiles_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHAPES = ((128_256, 2560), (32_000, 768))  # out x in
BATCHES = (1, 8, 16)
THREADS = (1, 2)
COLD_BYTES = 320 << 20
SHORTEST = 0.1  # seconds of one measurement


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds of one call, over as many calls as fill the shortest measurement."""
    calls, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < SHORTEST:
        work()
        calls += 1
    return elapsed / calls


def random_matrices(rows: int, columns: int, *, bits: int) -> list[cpu.CodedMatrix]:
    """Return enough matrices of random codes that none is in a cache when its turn comes again."""
    random = np.random.default_rng(1)
    shape = tiles_shape(rows, columns, bits=bits)
    tiles = random.integers(1, 256, shape, dtype=np.uint8)
    scales = random.uniform(0.01, 0.02, (*shape[:2], 32)).astype(np.float32)
    tiles[..., -64:] = (scales.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
    weight = CodedWeight(tiles=tiles, bits=bits, in_features=columns, out_features=rows)
    return [cpu.prepare_coded(weight, threads=2) for _ in range(COLD_BYTES // tiles.nbytes + 1)]


class Reader:
    """Reads memory on some threads at once."""

    def __init__(self, threads: int) -> None:
        self.parts = [np.ones(COLD_BYTES // 8 // threads, dtype=np.int64) for _ in range(threads)]
        self.nbytes = sum(part.nbytes for part in self.parts)
        self.pool = ThreadPoolExecutor(threads)

    def __call__(self) -> None:
        """Read all of it once."""
        list(self.pool.map(np.ndarray.sum, self.parts))


def measure(
    matrices: Sequence[cpu.CodedMatrix], *, threads: int, rounds: int
) -> tuple[float, dict[int, float]]:
    """Return the read bandwidth and, by batch, the seconds of one product: medians of interleaved rounds."""
    turn, read = itertools.cycle(matrices), Reader(threads)
    random = np.random.default_rng(2)
    inputs = {
        batch: random.standard_normal((batch, matrices[0].in_features)).astype(np.float32)
        for batch in BATCHES
    }

    def product(batch: int) -> None:
        q, scale = cpu.quantize_activations(inputs[batch])
        cpu.coded_matmul(next(turn), q, scale, threads=threads)

    bandwidths, seconds = [], {batch: [] for batch in BATCHES}
    read()
    for _ in range(rounds):
        for batch in BATCHES:
            bandwidths.append(read.nbytes / seconds_of(read))
            seconds[batch].append(seconds_of(lambda batch=batch: product(batch)))
    return statistics.median(bandwidths), {batch: statistics.median(all_) for batch, all_ in seconds.items()}


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds whose median is taken")
    parser.add_argument("--isa", choices=_native.available_isas(), default=_native.isa())
    options = parser.parse_args()
    _native.set_isa(options.isa)
    heads = " | ".join(f"batch {batch}: ms | GB/s | GOPS" for batch in BATCHES)
    print(f"| {options.isa}: out x in | bits | threads | read GB/s | {heads} |")
    print("|" + "---|" * (4 + 3 * len(BATCHES)))
    for (rows, columns), bits in itertools.product(SHAPES, CODE_BITS):
        matrices = random_matrices(rows, columns, bits=bits)
        for threads in THREADS:
            bandwidth, seconds = measure(matrices, threads=threads, rounds=options.rounds)
            cells = []
            for batch, taken in seconds.items():
                rate = matrices[0].nbytes / taken
                operations = 2 * batch * rows * columns / taken
                cells += [
                    f"{taken * 1e3:.2f}",
                    f"{rate / 1e9:.1f} ({rate / bandwidth:.0%})",
                    f"{operations / 1e9:.0f}",
                ]
            print(
                f"| {rows} x {columns} | {bits} | {threads} | {bandwidth / 1e9:.1f} |", " | ".join(cells), "|"
            )


if __name__ == "__main__":
    main()
