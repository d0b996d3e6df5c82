"""Functions of single numbers as the native kernels compute them, step by step: equal to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32: TypeAlias = NDArray[np.float32]

_EXPONENTIAL = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1
)  # fmt: skip
_TANGENT = (
    -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1
)  # fmt: skip


def exponential(x: F32) -> F32:
    """e^x as the kernels compute it: within 2 units in the last place, 0 below -87.3."""
    one = np.float32
    bounded = np.where(x < one(-87.3), one(-87.3), x)
    bounded = np.where(bounded > one(88), one(88), bounded)
    magic = one(12582912)
    with np.errstate(invalid="ignore"):
        shifted = bounded * one(1.44269504) + magic
        whole = shifted - magic
        rest = (bounded - whole * one(0.693359375)) - whole * one(-2.12194440e-4)
        series = np.full_like(rest, one(_EXPONENTIAL[0]))
        for coefficient in _EXPONENTIAL[1:]:
            series = series * rest + one(coefficient)
        series = series * rest * rest + rest + one(1)
        power = (shifted.view(np.int32) - magic.view(np.int32) + np.int32(127)) << np.int32(23)
        result = series * power.view(np.float32)
    return np.where(x < one(-87.3), one(0), result)


def hyperbolic_tangent(x: F32) -> F32:
    """tanh(x) as the kernels compute it, within 2 units in the last place; Cephes, tanhf."""
    one, magnitude = np.float32(1), np.abs(x)
    with np.errstate(invalid="ignore", over="ignore"):
        square = x * x
        series = np.full_like(x, np.float32(_TANGENT[0]))
        for coefficient in _TANGENT[1:]:
            series = series * square + np.float32(coefficient)
        small = series * square * x + x
        large = one - np.float32(2) / (exponential(magnitude + magnitude) + one)
    return np.where(magnitude < np.float32(0.625), small, np.copysign(large, x))


def bound(x: F32, *, cap: float) -> F32:
    """Bounds each element smoothly, cap x tanh(x / cap); NaN where it is not finite."""
    height = np.float32(cap)
    with np.errstate(invalid="ignore", over="ignore"):
        bounded: F32 = height * hyperbolic_tangent(x * (np.float32(1) / height)) + (x - x)
    return bounded


def gelu_tanh_multiply(gate: F32, up: F32) -> F32:
    """GELU of `gate`, approximated with a hyperbolic tangent, times `up`, elementwise.

    x (1 + tanh(z / 2)) / 2 is x / (1 + e^-z) with z = 2 sqrt(2 / pi) (x + 0.044715 x^3).
    """
    one, slope, cubic = np.float32(1), np.float32(1.5957691216), np.float32(0.044715)
    with np.errstate(invalid="ignore", over="ignore"):
        z = gate * (slope * (one + cubic * (gate * gate)))
        gated: F32 = gate / (one + exponential(np.float32(0) - z)) * up
    return gated
