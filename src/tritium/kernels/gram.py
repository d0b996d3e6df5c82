"""Sums of products of inputs over their rows, in place; the twins are in `tritium.kernels.reference_gram`.

Within 512 rows each column is rounded to at most 2047 whole multiples of a power of two, so that sums are
exact integers, which join the result as float32, chunk after chunk: it depends neither on the threads nor on
the instruction set. What rounding adds to a column is at most a hundred thousandth of its energy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels import _native
from tritium.kernels.checks import refuses_bad_arrays
from tritium.kernels.device import use_detected_isa

if TYPE_CHECKING:
    from numpy.typing import NDArray

use_detected_isa()

TURNED_AT_ONCE = 2048  # whole chunks of rows, so that the result is that of all at once


@refuses_bad_arrays
def add_gram(values: NDArray[np.float32], out: NDArray[np.float32], *, threads: int = 1) -> None:
    """Adds values' values, on the diagonal and right of it, to `out`; what lies left of it is undefined.

    Args:
        values: finite float32 [M, K].
        out: float32 [K, K].
        threads: threads to use.

    Raises:
        ValidationError: a dtype or a shape that does not fit.
    """
    _native.add_gram(values, out, threads)


@refuses_bad_arrays
def add_cross_gram(
    first: NDArray[np.float32], second: NDArray[np.float32], out: NDArray[np.float32], *, threads: int = 1
) -> None:
    """Adds first' second, of finite float32 [M, K] and [M, L], to `out` [K, L].

    Raises:
        ValidationError: a dtype or a shape that does not fit.
    """
    _native.add_cross_gram(first, second, out, threads)


def multiplied(
    first: NDArray[np.float32], second: NDArray[np.float32], *, threads: int = 1
) -> NDArray[np.float32]:
    """Multiplies finite float32 [M, K] by [K, N], rounded as `add_cross_gram` rounds them: [M, N].

    Raises:
        ValidationError: a dtype or a shape that does not fit.
    """
    out = np.zeros((first.shape[0], second.shape[1]), np.float32)
    for begin in range(0, first.shape[1], TURNED_AT_ONCE):
        inputs = slice(begin, begin + TURNED_AT_ONCE)
        add_cross_gram(np.ascontiguousarray(first[:, inputs].T), second[inputs], out, threads=threads)
    return out
