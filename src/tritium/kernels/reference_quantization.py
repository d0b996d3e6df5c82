"""The numpy truth of `tritium.kernels.quantization`, written to be read rather than to be fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tritium.errors import ValidationError
from tritium.kernels.reference import to_compute_layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32: TypeAlias = NDArray[np.float32]
    F64: TypeAlias = NDArray[np.float64]

LANES = 32
SMALLEST_MEAN = np.float32(1e-5)


def absmean(
    weights: NDArray[Any], *, group_size: int | None = None, threads: int = 1
) -> tuple[NDArray[np.uint8], F32]:
    """Ternarises [N, K] by the mean magnitude of the tensor, of rows or of groups."""
    del threads
    values = _as_float32(weights)
    rows, columns = values.shape
    if group_size is None:
        total = np.float64(0)
        for row in _sum_magnitudes(values):
            total += row
        means = np.array([[total / values.size]])
    else:
        groups = grouped(values, group_size=group_size)
        starts = np.arange(groups.shape[1]) * group_size
        means = _sum_magnitudes(groups) / np.minimum(columns - starts, group_size)
    scales = np.maximum(means.astype(np.float32), SMALLEST_MEAN)
    per_weight = np.repeat(np.float32(1) / scales, group_size or columns, axis=1)[:, :columns]
    trits = np.clip(np.rint(values * per_weight), -1, 1).astype(np.int8)
    return to_compute_layout(trits), np.broadcast_to(
        scales, (1 if group_size is None else rows, means.shape[1])
    )


def least_squares_scales(weights: NDArray[Any], *, group_size: int | None, threads: int = 1) -> F32:
    """Finds the scale of least squared error of every group: all counts of its largest weights are tried."""
    del threads
    values = _as_float32(weights)
    if group_size is None:
        values = values.reshape(1, -1)
        group_size = values.shape[1]
    groups = grouped(np.abs(values), group_size=group_size)
    descending = np.sort(groups, axis=-1)[..., ::-1]
    sums = np.cumsum(descending, axis=-1, dtype=np.float64)
    counts = np.arange(1, group_size + 1, dtype=np.float64)
    best = np.argmax(np.square(sums) / counts, axis=-1)[..., None]
    scales: F32 = (np.take_along_axis(sums, best, axis=-1) / counts[best])[..., 0].astype(np.float32)
    return scales


def round_levels(
    weights: F32, scales: F32, *, group_size: int, limit: int, threads: int = 1
) -> NDArray[np.int8]:
    """Rounds float32 [N, K] to multiples of its groups' scales."""
    del threads
    safe = np.where(scales > 0, scales, np.float32(np.inf))
    per_weight = np.repeat(safe, group_size, axis=1)[:, : weights.shape[1]]
    levels: NDArray[np.int8] = np.clip(np.rint(weights / per_weight), -limit, limit).astype(np.int8)
    return levels


def grouped(values: F32, *, group_size: int) -> F32:
    """Cuts [N, K] into [N, G, group_size]; a short last group is filled with zeros."""
    filled = np.pad(values, ((0, 0), (0, -values.shape[1] % group_size)))
    return filled.reshape(values.shape[0], -1, group_size)


def _sum_magnitudes(values: F32) -> F64:
    """Sums |values| over the last axis: element k goes to lane k mod 32; lanes are folded by halves."""
    magnitudes = np.abs(values).astype(np.float64)
    padding = [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % LANES)]
    wide = np.pad(magnitudes, padding).reshape(*values.shape[:-1], -1, LANES)
    lanes = np.zeros((*values.shape[:-1], LANES))
    for step in range(wide.shape[-2]):
        lanes += wide[..., step, :]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def _as_float32(weights: NDArray[Any]) -> F32:
    if weights.dtype == np.uint16:  # bfloat16 bits
        values: F32 = (weights.astype(np.uint32) << 16).view(np.float32)
    else:
        values = weights.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValidationError("The weights hold NaN or infinity.")
    return values
