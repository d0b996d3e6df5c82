"""Floating-point bits: bfloat16 kept as uint16, exact widening to float32, the search for NaN and Inf."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.kernels import quantization

if TYPE_CHECKING:
    from numpy.typing import NDArray


def bfloat16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen bfloat16 bits to float32, exactly; any shape."""
    widened = bits.astype(np.uint32)
    widened <<= np.uint32(16)
    return widened.view(np.float32)


def float32_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round finite float32 to bfloat16 bits, half to even; any shape."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


def first_not_finite(values: NDArray[Any]) -> int | None:
    """Return the flat index of the first NaN or Inf, or None; uint16 means bfloat16 bits."""
    flat = values.reshape(-1)
    if flat.dtype != np.uint16 and flat.dtype.kind != "f":
        return None
    found = quantization.first_not_finite(np.ascontiguousarray(flat), threads=os.cpu_count() or 1)
    return None if found < 0 else found
