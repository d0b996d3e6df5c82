"""Scales of groups in a byte each: four bits of exponent, four of mantissa, and a power of two per matrix.

A code c with exponent e = c / 16 and mantissa m = c % 16 stands for

    m x 2^u                  (e = 0)
    (16 + m) x 2^(e - 1 + u) (e > 0)

where u is the matrix's unit. It is the layout of an 8-bit float without a sign (OCP 8-bit floating point
specification, there with other widths). Rounding to it moves a scale by at most 1/32; every value is a
float32, a bfloat16 and, within its range, a float16 exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANTISSA: Final = 16
LARGEST_EXPONENT: Final = 15
# Of the unit: the largest value, 31 x 2^(14 + u), and the smallest, 2^u, are normal float32 numbers.
SMALLEST_UNIT: Final = -126
LARGEST_UNIT: Final = 108
EXPONENT_BITS: Final = 0x7F800000  # of a float32
# Where the largest scale of a matrix is smaller, codes near it would be coarser than a sixteenth.
SMALLEST_LARGEST: Final = 2.0 ** (SMALLEST_UNIT + LARGEST_EXPONENT + 4)


def encode_scales(scales: NDArray[np.float32]) -> tuple[NDArray[np.uint8], int]:
    """Round scales, not negative, to the nearest codes; the largest decides the unit.

    Raises:
        ValidationError: a scale is negative, NaN or infinite.
    """
    largest = float(scales.max(initial=0))
    if not (np.isfinite(largest) and float(scales.min(initial=0)) >= 0):
        raise ValidationError("A scale is negative, NaN or infinite: it has no code.")
    _, exponent = np.frexp(largest * 32 / 31.5)  # what rounds above 31 x 2^n needs the next unit
    unit = int(np.clip(exponent - 5 - LARGEST_EXPONENT + 1, SMALLEST_UNIT, LARGEST_UNIT))
    in_units = np.ldexp(scales.astype(np.float64), -unit)
    _, exponents = np.frexp(in_units)
    steps = np.maximum(exponents - 5, 0)
    mantissas = np.rint(np.ldexp(in_units, -steps))  # 16 to 32, or 0 to 16 in the lowest steps
    codes = np.where(in_units < MANTISSA, mantissas, steps * MANTISSA + mantissas)
    return np.minimum(codes, 255).astype(np.uint8), unit


def decode_scales(codes: NDArray[np.uint8], unit: int) -> NDArray[np.float32]:
    """Return the scales that codes stand for, exactly, in the codes' shape.

    Raises:
        ValidationError: the unit is outside what float32 holds.
    """
    check_unit(unit)
    exponents, mantissas = codes // MANTISSA, codes % MANTISSA
    significands = np.where(exponents > 0, mantissas + MANTISSA, mantissas).astype(np.float32)
    steps = np.maximum(exponents, 1).astype(np.int32) - 1 + unit
    decoded: NDArray[np.float32] = np.ldexp(significands, steps)
    return decoded


def nearest_scales(scales: NDArray[np.float32], unit: int) -> NDArray[np.float32]:
    """Return what the codes nearest to scales stand for, of scales that have one in this unit.

    That is what decoding their codes gives, in a quarter of the time.

    Raises:
        ValidationError: a scale is negative, NaN or infinite, or the unit is outside what float32 holds.
    """
    check_unit(unit)
    if not (np.isfinite(scales.max(initial=0)) and scales.min(initial=0) >= 0):
        raise ValidationError("A scale is negative, NaN or infinite: it has no code.")
    in_units = np.ldexp(scales, -unit)
    power = (in_units.view(np.int32) & EXPONENT_BITS).view(np.float32)  # of two, at most the scale
    # Adding so much rounds to multiples of a sixteenth of the power, half to even.
    magic = np.maximum(power, np.float32(MANTISSA)) * np.float32(1.5 * 2**19)
    nearest: NDArray[np.float32] = np.ldexp((in_units + magic) - magic, unit)
    return nearest


def check_unit(unit: object) -> None:
    """Raise ValidationError for what cannot be the unit of scales."""
    if type(unit) is not int or not SMALLEST_UNIT <= unit <= LARGEST_UNIT:
        raise ValidationError(
            f"The unit of scales is a whole number from {SMALLEST_UNIT} to {LARGEST_UNIT}, not {unit!r}."
        )
