"""Trits to bytes and back: five to a byte for the disk, four to a byte for the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.errors import ValidationError
from tritium.kernels import _native
from tritium.kernels.checks import refuses_bad_arrays
from tritium.kernels.weight import TernaryWeight, padded

if TYPE_CHECKING:
    from typing import Any

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


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    """The array as rows of its last axis, which is how the native kernels take it."""
    if array.ndim == 0:
        raise ValidationError("Packed or unpacked trits need at least one axis.")
    rows = 1
    for size in array.shape[:-1]:
        rows *= size
    return array.reshape(rows, array.shape[-1])


@refuses_bad_arrays
def pack_trits(trits: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Packs trits [..., n] of -1, 0, 1 into bytes [..., ceil(n / 5)], the first trit least significant.

    Raises:
        ValidationError: the array is not int8, has no axis, or holds something else than -1, 0, 1.
    """
    packed = _native.pack_trits(_rows(trits))
    return packed.reshape(*trits.shape[:-1], packed.shape[1])


@refuses_bad_arrays
def unpack_trits(packed: NDArray[np.uint8], *, count: int) -> NDArray[np.int8]:
    """Unpacks bytes [..., ceil(count / 5)] into trits int8 [..., count].

    Raises:
        ValidationError: a byte above 242, or a last axis that does not fit `count`.
    """
    return _native.unpack_trits(_rows(packed), count).reshape(*packed.shape[:-1], count)


@refuses_bad_arrays
def to_compute_layout(trits: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Lays trits [N, K] out in blocks of 128 weights in 32 bytes: uint8 [N, Kp / 4].

    Raises:
        ValidationError: the array is not int8 of two axes, or holds something else than -1, 0, 1.
    """
    return _native.to_compute_layout(trits)


@refuses_bad_arrays
def from_compute_layout(planes: NDArray[np.uint8], *, count: int) -> NDArray[np.int8]:
    """Reads uint8 [N, Kp / 4] back into trits int8 [N, count].

    Raises:
        ValidationError: a shape that does not fit `count`, or a code that is no trit.
    """
    return _native.from_compute_layout(planes, count)


@refuses_bad_arrays
def packed5_to_compute(packed: NDArray[np.uint8], *, count: int) -> NDArray[np.uint8]:
    """Turns rows packed five to a byte [N, ceil(count / 5)] into the compute layout uint8 [N, Kp / 4].

    Raises:
        ValidationError: a byte above 242, or a last axis that does not fit `count`.
    """
    return _native.packed5_to_compute(packed, count)
