"""Measures paged attention beside the memory's read bandwidth, on the heads of a 2-billion-parameter BitNet.

    python benchmarks/attention.py [--seconds 0.3] [--isa avx512_vnni]

20 query heads share 5 heads of keys and values, each of 128 numbers. One layer, cold: each call reads the
next of enough sequences to exceed 320 MB. Decode: one query of one sequence; GB/s counts the bytes of keys,
values and scales read. Prefill: a whole prompt in one call, causal; GOPS counts multiplies and adds of the
visible positions. The bandwidth is that of reading 640 MB by numpy's sum over int64, measured just before.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels import _native, attention, pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tritium.kernels.pages import KvDtype, Pool

HEADS, KV_HEADS, DIM = 20, 5, 128
DECODES = (512, 4096, 32768)
PREFILLS = (512, 2000)
THREADS = (1, 2)
COLD_BYTES = 320 << 20


def rate(work: Callable[[], object], *, seconds: float) -> float:
    """Calls of `work` per second: the best of three rounds."""
    work()
    best = 0.0
    for _ in range(3):
        calls, begin = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < seconds / 3:
            work()
            calls += 1
        best = max(best, calls / elapsed)
    return best


@functools.cache
def memory_to_read() -> NDArray[np.int64]:
    """640 MB."""
    return np.ones(2 * COLD_BYTES // 8, dtype=np.int64)


def read_bandwidth(threads: int) -> float:
    """Bytes per second that so many threads read from memory."""
    parts = np.array_split(memory_to_read(), threads)
    with ThreadPoolExecutor(threads) as pool:
        return 2 * COLD_BYTES * rate(lambda: list(pool.map(np.sum, parts)), seconds=0.4)


def cold_pool(dtype: KvDtype, length: int) -> tuple[Pool, list[np.ndarray]]:
    """A pool, and the block tables of sequences of `length` positions that together exceed the caches."""
    per_sequence = -(-length // pages.BLOCK_SIZE)
    size = pages.block_bytes(dtype, heads=KV_HEADS, head_dim=DIM) * per_sequence
    sequences = COLD_BYTES // size + 2
    pool = pages.new_pool(dtype, num_blocks=sequences * per_sequence, heads=KV_HEADS, head_dim=DIM)
    random = np.random.default_rng(1)
    k, v = random.standard_normal((2, pages.BLOCK_SIZE, KV_HEADS, DIM)).astype(np.float32)
    attention.write_kv(k, v, pool, np.arange(pages.BLOCK_SIZE))
    pool[1:] = pool[0]
    tables = np.arange(sequences * per_sequence, dtype=np.int32).reshape(sequences, 1, per_sequence)
    return pool, list(tables)


def calls_per_second(dtype: KvDtype, *, length: int, queries: int, threads: int, seconds: float) -> float:
    """How often a second `queries` last positions of a sequence of `length` attend to it."""
    pool, tables = cold_pool(dtype, length)
    turn = itertools.cycle(tables)
    q = np.random.default_rng(2).standard_normal((queries, HEADS, DIM)).astype(np.float32)
    starts, lengths = np.array([0, queries], np.int32), np.array([length], np.int32)
    return rate(
        lambda: attention.paged_attention(
            q,
            pool,
            block_tables=next(turn),
            query_starts=starts,
            context_lengths=lengths,
            scale=DIM**-0.5,
            threads=threads,
        ),
        seconds=seconds,
    )


def decode_table(seconds: float) -> None:
    """Prints microseconds and GB/s of one query."""
    print("| decode over | cache | KiB per position |", " | ".join(f"{n} threads" for n in THREADS), "|")
    print("|" + "---|" * (3 + len(THREADS)))
    for length, dtype in itertools.product(DECODES, pages.KV_DTYPES):
        size = pages.block_bytes(dtype, heads=KV_HEADS, head_dim=DIM) / pages.BLOCK_SIZE
        cells = []
        for threads in THREADS:
            bandwidth = read_bandwidth(threads)
            calls = calls_per_second(dtype, length=length, queries=1, threads=threads, seconds=seconds)
            speed = calls * size * length
            cells.append(f"{1e6 / calls:.0f} us, {speed / 1e9:.1f} of {bandwidth / 1e9:.1f} GB/s")
        print(f"| {length} | {dtype} | {size / 1024:.2f} |", " | ".join(cells), "|", flush=True)


def prefill_table(seconds: float) -> None:
    """Prints milliseconds and GOPS of a whole prompt."""
    print("\n| prefill of | cache |", " | ".join(f"{n} threads" for n in THREADS), "|")
    print("|" + "---|" * (2 + len(THREADS)))
    for length, dtype in itertools.product(PREFILLS, pages.KV_DTYPES):
        operations = 4 * HEADS * DIM * length * (length + 1) / 2
        cells = []
        for threads in THREADS:
            calls = calls_per_second(dtype, length=length, queries=length, threads=threads, seconds=seconds)
            cells.append(f"{1e3 / calls:.2f} ms, {operations * calls / 1e9:.0f} GOPS")
        print(f"| {length} | {dtype} |", " | ".join(cells), "|", flush=True)


def main() -> None:
    """Prints two tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.3, help="time for each figure")
    parser.add_argument(
        "--part", choices=["decode", "prefill"], help="one of the two tables; by default both"
    )
    parser.add_argument("--isa", choices=_native.available_isas(), default=_native.isa())
    options = parser.parse_args()
    _native.set_isa(options.isa)
    print(f"{options.isa}, {os.cpu_count()} processors\n")
    if options.part != "prefill":
        decode_table(options.seconds)
    if options.part != "decode":
        prefill_table(options.seconds)


if __name__ == "__main__":
    main()
