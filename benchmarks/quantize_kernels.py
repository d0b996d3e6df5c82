"""Measures the quantization kernels: parameters per second by method, element type, instruction set, threads.

    python benchmarks/quantize_kernels.py [--rounds 5]

Weights are one layer of 2560 x 6912, Gaussian, cold: each call takes the next of enough copies to exceed
320 MB. In every round the read bandwidth of the moment and each cell take turns; medians are shown. "of read"
is the bytes of weights a second over that bandwidth. At the end stand loops as a book writes them, compiled
here by c++ -O1 and -O3 (textbook.cpp), on the same float32 weights.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.kernels import _native, packing, quantization

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LAYER = (2560, 6912)
GROUP = 128
COLD_BYTES = 320 << 20
THREADS = (1, 2)
METHODS: dict[str, Callable[[NDArray[Any], int], object]] = {
    "absmean + pack, tensor": lambda w, t: quantization.absmean(w, threads=t),
    "absmean + pack, row": lambda w, t: quantization.absmean(w, group_size=LAYER[1], threads=t),
    "absmean + pack, group": lambda w, t: quantization.absmean(w, group_size=GROUP, threads=t),
    "exact threshold, row": lambda w, t: quantization.least_squares_scales(w, group_size=LAYER[1], threads=t),
    "exact threshold, group": lambda w, t: quantization.least_squares_scales(w, group_size=GROUP, threads=t),
}
PACKING: dict[str, Callable[[NDArray[Any]], object]] = {
    "pack, 5 trits to a byte": lambda trits: packing.pack_trits(trits.reshape(-1)),
    "pack, portable 2 bits": packing.to_compute_layout,
}


def element_types() -> dict[str, NDArray[Any]]:
    """The same layer in the three types of checkpoints; bfloat16 as its bits."""
    weights = np.random.default_rng(0).normal(size=LAYER).astype(np.float32)
    bits = (weights.view(np.uint32) >> 16).astype(np.uint16)
    return {"bfloat16": bits, "float16": weights.astype(np.float16), "float32": weights}


def rate(work: Callable[[NDArray[Any]], object], copies: list[NDArray[Any]]) -> float:
    """Weights per second over all copies, one after the other."""
    begin = time.perf_counter()
    for copy in copies:
        work(copy)
    return sum(copy.size for copy in copies) / (time.perf_counter() - begin)


def cold_copies(weights: NDArray[Any]) -> list[NDArray[Any]]:
    """Enough copies that none is in a cache when its turn comes again."""
    return [weights.copy() for _ in range(COLD_BYTES // weights.nbytes + 1)]


def show(
    name: str, kind: str, copies: list[NDArray[Any]], cells: dict[tuple[str, int], Any], rounds: int
) -> None:
    """Print one row: all instruction sets and thread counts of a method, interleaved."""
    rates: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells}
    bandwidth: dict[int, list[float]] = {threads: [] for _, threads in cells}
    for work in cells.values():
        work(copies[0])
    for _ in range(rounds):
        for threads, found in bandwidth.items():
            found.append(_native.read_bandwidth(threads, 0.1))
        for (isa, threads), work in cells.items():
            _native.set_isa(isa)
            rates[isa, threads].append(rate(work, copies))
    medians = {cell: statistics.median(values) for cell, values in rates.items()}
    for (isa, threads), value in medians.items():
        read = statistics.median(bandwidth[threads])
        share = value * copies[0].itemsize / read
        print(
            f"| {name} | {kind} | {isa} | {threads} | {value / 1e6:.0f} | {read / 1e9:.1f} | {share:.0%} "
            f"| {value / medians['scalar', threads]:.1f} |",
            flush=True,
        )


def show_textbook(weights: NDArray[np.float32], rounds: int) -> None:
    """Print the rates of the loops of textbook.cpp."""
    compiler = shutil.which("c++")
    if compiler is None:
        print("\nno c++ here: the textbook's loops are left out")
        return
    packed, scales = np.empty(weights.size // 4, np.uint8), np.empty(weights.size // GROUP, np.float32)
    data, count = ctypes.c_void_p(weights.ctypes.data), ctypes.c_int64(weights.size)
    print("\n| textbook, float32, one thread | flags | million parameters/s |\n|---|---|---|")
    for flags in ("-O1", "-O3"):
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder) / "textbook.so"
            source = Path(__file__).with_name("textbook.cpp")
            subprocess.run([compiler, flags, "-shared", "-fPIC", str(source), "-o", str(built)], check=True)
            library = ctypes.CDLL(str(built))
        loops: dict[str, Callable[[NDArray[Any]], object]] = {
            "absmean + pack by roundf": lambda _, code=library: code.absmean_by_rounding(
                data, count, ctypes.c_void_p(packed.ctypes.data)
            ),
            "absmean + pack by comparing": lambda _, code=library: code.absmean_by_comparing(
                data, count, ctypes.c_void_p(packed.ctypes.data)
            ),
            "exact threshold, group, by sorting": lambda _, code=library: code.least_squares_by_sorting(
                data, count, ctypes.c_int64(GROUP), ctypes.c_void_p(scales.ctypes.data)
            ),
        }
        for name, loop in loops.items():
            best = max(rate(loop, [weights]) for _ in range(rounds))
            print(f"| {name} | {flags} | {best / 1e6:.0f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="methods whose name holds this")
    options = parser.parse_args()
    isas = _native.available_isas()
    print("| method | weights | instruction set | threads | million/s | read GB/s | of read | to scalar |")
    print("|---|---|---|---|---|---|---|---|")
    types = element_types()
    for kind, weights in types.items():
        copies = cold_copies(weights)
        for name, method in METHODS.items():
            cells = {
                (isa, threads): lambda w, run=method, t=threads: run(w, t)
                for threads in THREADS
                for isa in isas
            }
            if options.only in name:
                show(name, kind, copies, cells, options.rounds)
    trits = cold_copies(np.clip(np.rint(types["float32"]), -1, 1).astype(np.int8))
    for name, pack in PACKING.items():
        if options.only in name:
            show(name, "int8 trits", trits, {(isa, 1): pack for isa in isas}, options.rounds)
    show_textbook(types["float32"], options.rounds)


if __name__ == "__main__":
    main()
