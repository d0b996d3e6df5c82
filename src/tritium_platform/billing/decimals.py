"""Whole and exact amounts in decimal digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractions import Fraction

MOST_DIGITS = 30


def decimal_of(minor: int, *, digits: int) -> str:
    """Write minor units in the major unit of their currency: 1234 with 2 digits is 12.34."""
    whole, rest = divmod(abs(minor), 10**digits)
    sign = "-" if minor < 0 else ""
    return f"{sign}{whole}.{rest:0{digits}d}" if digits else f"{sign}{whole}"


def exact_decimal(number: Fraction, *, most_digits: int = MOST_DIGITS) -> str | None:
    """Write a fraction in as many digits as it has; None if they do not end within `most_digits`."""
    for digits in range(most_digits + 1):
        scaled = number * 10**digits
        if scaled.denominator == 1:
            return decimal_of(scaled.numerator, digits=digits)
    return None
