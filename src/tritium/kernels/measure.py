"""How fast a ternary product runs here, on each instruction set of the processor and on so many threads."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Self

import numpy as np

from tritium.kernels import _native
from tritium.kernels.packing import to_compute_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MOST_WEIGHTS = 1 << 22  # of a product that is measured: a larger one has fewer outputs instead
ROWS = 8
LEAST_CALLS = 3
ENOUGH_SECONDS = 0.005
# What is no faster than this many times is within the noise of a short measurement.
CLEARLY = 1.05
GIGA = 1e9


@dataclass(frozen=True, kw_only=True)
class Product:
    """A ternary product: activations [rows, in_features] by a weight [out_features, in_features]."""

    out_features: int
    in_features: int
    rows: int

    @classmethod
    def of_model(cls, shapes: Iterable[tuple[int, int]]) -> Self:
        """Return the product to measure for a model with linear layers of these shapes [out, in].

        It is the largest one, by a few rows: between what writing one text takes and what reading takes.
        """
        out_features, in_features = max(shapes, key=lambda shape: shape[0] * shape[1])
        return cls(out_features=out_features, in_features=in_features, rows=ROWS)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run kernels, and how fast a product ran so.

    Attributes:
        isa: instruction set.
        threads: how many.
        gops: billions of multiplications and additions per second.
    """

    isa: str
    threads: int
    gops: float


@cache
def measure_product(product: Product, isa: str, threads: int) -> float:
    """Return the speed of a ternary product in GOPS, the best of a few calls; measured once in a process."""
    outputs = max(1, min(product.out_features, MOST_WEIGHTS // product.in_features))
    pattern = np.array([1, 0, -1, -1, 0, 1, 1], dtype=np.int8)
    row = to_compute_layout(np.resize(pattern, product.in_features)[None])
    weight = _native.prepare(
        np.tile(row, (1, outputs, 1)),
        np.ones((1, 1), dtype=np.float32),
        product.in_features,
        product.in_features,
        False,
        threads,
        isa,
    )
    inputs = np.resize(np.linspace(-1, 1, 97, dtype=np.float32), (product.rows, product.in_features))
    q, scale = _native.quantize_activations(inputs, threads)
    seconds: list[float] = []
    while len(seconds) <= LEAST_CALLS or sum(seconds) < ENOUGH_SECONDS:
        started = time.perf_counter()
        _native.ternary_matmul(weight, q, scale, threads)
        seconds.append(time.perf_counter() - started)
    # The first call finds cold caches and sleeping threads.
    return 2 * outputs * product.in_features * product.rows / min(seconds[1:]) / GIGA


def measure_candidates(
    product: Product,
    *,
    isas: Sequence[str],
    threads: Sequence[int],
    measure: Callable[[Product, str, int], float],
) -> tuple[Candidate, ...]:
    """Measure the instruction sets on the most threads, then the fastest of them on fewer; the fastest first.

    Args:
        product: what is run.
        isas: to choose from, the widest first: it stays unless another one is clearly faster.
        threads: numbers to choose from, the greatest first: it stays likewise.
        measure: returns the GOPS of a product on an instruction set and so many threads.
    """

    def tried(isa: str, count: int) -> Candidate:
        return Candidate(isa=isa, threads=count, gops=measure(product, isa, count))

    found = [tried(isa, threads[0]) for isa in isas]
    best = _fastest(found)
    fewer = [tried(best.isa, count) for count in threads[1:]]
    best = _fastest([best, *fewer])
    others = [candidate for candidate in [*found, *fewer] if candidate is not best]
    return (best, *sorted(others, key=lambda candidate: -candidate.gops))


def _fastest(candidates: Sequence[Candidate]) -> Candidate:
    best = candidates[0]
    for candidate in candidates[1:]:
        if candidate.gops > CLEARLY * best.gops:
            best = candidate
    return best
