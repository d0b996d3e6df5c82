"""Measures the ternary product on the shapes of a 2-billion-parameter BitNet, beside its ceilings.

    python benchmarks/kernels.py [--rounds 7] [--isa avx512_amx,avx512_vbmi] [--threads 1,2]

Weights are cold: each product uses the next of enough copies to exceed 320 MB. GOPS counts multiplies and
adds; the time includes rounding the activations, the scales and the threads' meeting at the end of each
product, as in a forward step: a call runs a plan of eight. In every round the read bandwidth and the int8
peak of each instruction set (tdpbssd, vpdpbusd or vpmaddubsw) are measured, then each set and batch has its
turn; a cell is the median of the rounds. "of the bandwidth" is the rate at which packed weights are read, "of
the peak" the rate of multiply-adds over the peak of the first set, then of the second and so on, each over
what was measured in the same round.
"""

from __future__ import annotations

import argparse
import statistics

from side_by_side.products import ColdProducts

from tritium.kernels import _native

SHAPES = ((6912, 2560), (2560, 6912), (2560, 2560))  # out x in
BATCHES = (1, 2, 4, 8, 16, 32, 512)
SECONDS = 0.05  # for each figure of a round


def ceilings(isas: list[str], *, threads: int) -> list[float]:
    """The read bandwidth in GB/s, then the int8 peak of each instruction set in GOPS."""
    found = [_native.read_bandwidth(threads, SECONDS) / 1e9]
    for isa in isas:
        _native.set_isa(isa)
        found.append(_native.peak_int8(threads, SECONDS) / 1e9)
    return found


def figures(products: ColdProducts, limits: list[float], *, batch: int, threads: int) -> list[float]:
    """GOPS, then the shares of the ceilings that bind the batch."""
    gops = products.gops(batch=batch, threads=threads, seconds=SECONDS)
    if batch == 1:
        return [gops, gops / 2 * products.bits / 8 / limits[0]]
    return [gops, *(gops / peak for peak in limits[1:])]


def rows(products: dict[str, ColdProducts], *, threads: int, rounds: int) -> dict[str, list[str]]:
    """The cells of a row for each instruction set: the ceilings, then each batch with its shares of them."""
    isas = list(products)
    limits: list[list[float]] = []
    found: dict[tuple[str, int], list[list[float]]] = {(isa, batch): [] for isa in isas for batch in BATCHES}
    for _ in range(rounds):
        limits.append(ceilings(isas, threads=threads))
        for (isa, batch), measured in found.items():
            _native.set_isa(isa)
            measured.append(figures(products[isa], limits[-1], batch=batch, threads=threads))
    bandwidth, *peaks = medians(limits)
    cells = {}
    for isa in isas:
        figures_of = [medians(found[isa, batch]) for batch in BATCHES]
        shares = [", ".join(f"{share:.0%}" for share in shares) for _, *shares in figures_of]
        speeds = [f"{gops:.0f} ({share})" for (gops, *_), share in zip(figures_of, shares, strict=True)]
        peak = ", ".join(f"{peak:.0f}" for peak in peaks)
        cells[isa] = [f"{products[isa].bits:.2f}", f"{bandwidth:.1f}", peak, *speeds]
    return cells


def medians(measured: list[list[float]]) -> list[float]:
    """Of each column."""
    return [statistics.median(column) for column in zip(*measured, strict=True)]


def cold_products(isa: str, shape: tuple[int, int], group_size: int) -> ColdProducts:
    """Products whose weights are laid out for an instruction set."""
    _native.set_isa(isa)
    return ColdProducts(*shape, group_size=group_size)


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--isa", default=_native.isa(), help="instruction sets, separated by commas")
    parser.add_argument("--threads", default="1,2", help="counts, separated by commas")
    options = parser.parse_args()
    isas = options.isa.split(",")
    if not set(isas) <= set(_native.available_isas()):
        raise SystemExit(f"--isa: this processor has {', '.join(_native.available_isas())}.")
    batches = ["batch 1 (of the bandwidth)", *(f"{batch} (of the peaks)" for batch in BATCHES[1:])]
    head = ["out x in", "group", "threads", "kernels", "bits", "read GB/s", f"peaks: {options.isa}", *batches]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for shape in SHAPES:
        for group_size in (shape[1], 128):
            products = {isa: cold_products(isa, shape, group_size) for isa in isas}
            group = "row" if group_size == shape[1] else str(group_size)
            for threads in map(int, options.threads.split(",")):
                for isa, cells in rows(products, threads=threads, rounds=options.rounds).items():
                    first = [f"{shape[0]} x {shape[1]}", group, str(threads), isa]
                    print("| " + " | ".join([*first, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
