"""Trits to bytes and back: five to a byte for the disk, four to a byte for the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.kernels import reference
from tritium.kernels.weight import TernaryWeight, padded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "TernaryWeight",
    "from_compute_layout",
    "pack_trits",
    "packed5_to_compute",
    "padded",
    "to_compute_layout",
    "unpack_trits",
]


def pack_trits(trits: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Packs trits [..., n] of -1, 0, 1 into bytes [..., ceil(n / 5)], the first trit least significant.

    Raises:
        ValidationError: the array is not int8, has no axis, or holds something else than -1, 0, 1.
    """
    return reference.pack_trits(trits)


def unpack_trits(packed: NDArray[np.uint8], *, count: int) -> NDArray[np.int8]:
    """Unpacks bytes [..., ceil(count / 5)] into trits int8 [..., count].

    Raises:
        ValidationError: a byte above 242, or a last axis that does not fit `count`.
    """
    return reference.unpack_trits(packed, count=count)


def to_compute_layout(trits: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Lays trits [N, K] out in blocks of 128 weights in 32 bytes: uint8 [N, Kp / 4].

    Raises:
        ValidationError: the array is not int8 of two axes, or holds something else than -1, 0, 1.
    """
    return reference.to_compute_layout(trits)


def from_compute_layout(planes: NDArray[np.uint8], *, count: int) -> NDArray[np.int8]:
    """Reads uint8 [N, Kp / 4] back into trits int8 [N, count].

    Raises:
        ValidationError: a shape that does not fit `count`, or a code that is no trit.
    """
    return reference.from_compute_layout(planes, count=count)


def packed5_to_compute(packed: NDArray[np.uint8], *, count: int) -> NDArray[np.uint8]:
    """Turns rows packed five to a byte [N, ceil(count / 5)] into the compute layout uint8 [N, Kp / 4].

    Raises:
        ValidationError: a byte above 242, or a last axis that does not fit `count`.
    """
    return reference.packed5_to_compute(packed, count=count)
