"""Weights that are ternary already, in whatever type they are stored: found by exact equality, kept exactly.

A ternary model is often published as dense float32, float16 or bfloat16. The scale of a tensor, a row or a
group of such weights is their one magnitude other than zero; what has none takes any scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.quantize.weights import QuantizedWeights, grouped, narrowest, row_chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

DETECTED = "detected"
SMALLEST_GROUP = 32
LARGEST_GROUP = 1024


def detect_ternary(weights: NDArray[np.float32]) -> QuantizedWeights | None:
    """Return float32 [N, K] as trits times scales, exactly; None where they are not.

    The scale is one for the tensor, else one for each row, else one for each group of 1024, 512 ... 32
    weights: the first of these that is exact.
    """
    magnitudes = _magnitudes(weights)
    if magnitudes is None:
        return None
    rows, columns = weights.shape
    scales, size = magnitudes, SMALLEST_GROUP
    for shape, wider in _divisions(rows, columns):
        shared = _shared(_divided(magnitudes, shape, group_size=wider))
        if shared is not None:
            scales, size = shared.reshape(shape), wider
            break
    levels = np.empty(weights.shape, dtype=np.int8)
    for chunk in row_chunks(rows, columns):
        levels[chunk] = np.sign(weights[chunk])
    stored, unit = narrowest(scales)
    return QuantizedWeights(levels=levels, scales=stored, planes=1, group_size=size, scale_unit=unit)


def shares_scale(quantized: QuantizedWeights) -> str:
    """Return what has one scale: `tensor`, `row` or `group`."""
    if quantized.scales.size == 1:
        return "tensor"
    return "row" if quantized.scales.shape[1] == 1 else "group"


def _divisions(rows: int, columns: int) -> list[tuple[tuple[int, int], int]]:
    """Return the shapes that scales may have, each with how many weights share one, coarsest first."""
    sizes = [LARGEST_GROUP >> step for step in range((LARGEST_GROUP // SMALLEST_GROUP).bit_length())]
    groups = [((rows, -(-columns // size)), size) for size in sizes if size < columns]
    return [((1, 1), columns), ((rows, 1), columns), *groups]


def _divided(
    magnitudes: NDArray[np.float32], shape: tuple[int, int], *, group_size: int
) -> NDArray[np.float32]:
    """Return the magnitudes of the smallest groups [N, G] as one row for each scale."""
    if shape[1] == 1:
        return magnitudes.reshape(shape[0], -1)
    return grouped(magnitudes, group_size=group_size // SMALLEST_GROUP)


def _magnitudes(weights: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return the magnitude of every smallest group, [N, G]; None if one holds several, NaN or infinity."""
    rows, columns = weights.shape
    magnitudes = np.empty((rows, -(-columns // SMALLEST_GROUP)), dtype=np.float32)
    for chunk in row_chunks(rows, columns):
        shared = _shared(np.abs(grouped(weights[chunk], group_size=SMALLEST_GROUP)))
        if shared is None or not np.isfinite(shared).all():
            return None
        magnitudes[chunk] = shared.reshape(-1, magnitudes.shape[1])
    return magnitudes


def _shared(magnitudes: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return the one magnitude other than zero of each row [n, g]; None if a row has several."""
    largest = magnitudes.max(axis=1)
    is_same = (magnitudes == largest[:, None]) | (magnitudes == 0)
    return largest if bool(is_same.all()) else None
