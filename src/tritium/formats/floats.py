"""Floating-point bits: bfloat16 kept as uint16, exact widening to float32, the search for NaN and Inf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Large tensors are scanned in pieces, so that a check needs little memory of its own.
SCAN_ELEMENTS = 1 << 20
BFLOAT16_EXPONENT = np.uint16(0x7F80)


def bfloat16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen bfloat16 bits to float32, exactly; any shape."""
    widened = bits.astype(np.uint32)
    widened <<= np.uint32(16)
    return widened.view(np.float32)


def first_not_finite(values: NDArray[Any]) -> int | None:
    """Return the flat index of the first NaN or Inf, or None; uint16 means bfloat16 bits."""
    flat = values.reshape(-1)
    if flat.dtype != np.uint16 and flat.dtype.kind != "f":
        return None
    for start in range(0, flat.size, SCAN_ELEMENTS):
        piece = flat[start : start + SCAN_ELEMENTS]
        if piece.dtype == np.uint16:
            wrong = (piece & BFLOAT16_EXPONENT) == BFLOAT16_EXPONENT
        else:
            wrong = ~np.isfinite(piece)
        if wrong.any():
            return start + int(np.argmax(wrong))
    return None
