"""The numpy truth of `tritium.kernels.gram`, written to be read rather than to be fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32: TypeAlias = NDArray[np.float32]

CHUNK_ROWS = 512
BITS = 11
SMALLEST = 2.0**-100  # a column that stays below counts as zero


def add_gram(values: F32, out: F32) -> None:
    """Adds values' values to `out`."""
    add_cross_gram(values, values, out)


def add_cross_gram(first: F32, second: F32, out: F32) -> None:
    """Adds first' second to `out`."""
    for start in range(0, len(first), CHUNK_ROWS):
        left, left_units = _whole(first[start : start + CHUNK_ROWS])
        right, right_units = _whole(second[start : start + CHUNK_ROWS])
        sums: F32 = (left.T @ right).astype(np.float32)
        out += (sums * left_units[:, None]) * right_units


def _whole(values: F32) -> tuple[NDArray[np.int64], F32]:
    """Returns each column as whole multiples [M, K] of a power of two [K]."""
    largest = np.abs(values).max(axis=0)
    _, exponents = np.frexp(largest)
    units = np.where(largest < SMALLEST, 0, np.ldexp(np.float32(1), exponents - BITS)).astype(np.float32)
    multiples = np.rint(values / np.where(units > 0, units, np.float32(np.inf)))
    return np.clip(multiples, 1 - 2**BITS, 2**BITS - 1).astype(np.int64), units
