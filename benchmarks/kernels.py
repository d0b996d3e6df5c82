"""Measures the ternary product on the shapes of a 2-billion-parameter BitNet, beside two ceilings.

    python benchmarks/kernels.py [--rounds 7] [--isa avx512_vbmi] [--threads 1,2]

Weights are cold: each product uses the next of enough copies to exceed 320 MB. GOPS counts multiplies and
adds; the time includes rounding the activations, the scales and the threads' meeting at the end of each
product, as in a forward step: a call runs a plan of eight. In every round the read bandwidth and the int8
peak (vpdpbusd) are measured before each row of the table and each batch has its turn; a cell is the median of
the rounds. "of the bandwidth" is the rate at which packed weights are read, "of the peak" the rate of
multiply-adds, each over what was measured in the same round.
"""

from __future__ import annotations

import argparse
import statistics

from side_by_side.products import ColdProducts

from tritium.kernels import _native

SHAPES = ((6912, 2560), (2560, 6912), (2560, 2560))  # out x in
BATCHES = (1, 2, 4, 8, 16, 32, 512)
SECONDS = 0.05  # for each figure of a round


def row(products: ColdProducts, *, threads: int, rounds: int) -> list[str]:
    """The cells of one row: both ceilings, then each batch with its share of the ceiling that binds it."""
    ceilings: list[tuple[float, float]] = []
    figures: dict[int, list[tuple[float, float]]] = {batch: [] for batch in BATCHES}
    for _ in range(rounds):
        bandwidth, peak = (
            _native.read_bandwidth(threads, SECONDS) / 1e9,
            _native.peak_int8(threads, SECONDS) / 1e9,
        )
        ceilings.append((bandwidth, peak))
        for batch in BATCHES:
            gops = products.gops(batch=batch, threads=threads, seconds=SECONDS)
            share = gops / 2 / batch * products.bits / 8 / bandwidth if batch == 1 else gops / peak
            figures[batch].append((gops, share))
    medians = [
        [statistics.median(column) for column in zip(*figures[batch], strict=True)] for batch in BATCHES
    ]
    bandwidth, peak = (statistics.median(column) for column in zip(*ceilings, strict=True))
    cells = [f"{gops:.0f} ({share:.0%})" for gops, share in medians]
    return [f"{products.bits:.2f}", f"{bandwidth:.1f}", f"{peak:.0f}", *cells]


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
            products = ColdProducts(rows, columns, group_size=group_size)
            group = "row" if group_size == columns else str(group_size)
            for threads in map(int, options.threads.split(",")):
                cells = row(products, threads=threads, rounds=options.rounds)
                print(
                    "| " + " | ".join([f"{rows} x {columns}", group, str(threads), *cells]) + " |", flush=True
                )


if __name__ == "__main__":
    main()
