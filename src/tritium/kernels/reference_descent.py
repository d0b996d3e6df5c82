"""The numpy truth of `tritium.kernels.descent`, written to be read rather than to be fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32: TypeAlias = NDArray[np.float32]

LANES = 16


def weigh_group(levels: F32, slope: F32, hessian: F32, stiffness: F32, *, columns: slice) -> F32:
    """Tells what pulls at the scale of one group in every row; fills in unknown stiffness."""
    chosen = levels[:, columns]
    is_unknown = np.isnan(stiffness)
    stiffness[is_unknown] = _dot(chosen, _turned(chosen, hessian[columns, columns]))[is_unknown]
    return _dot(chosen, slope[:, columns])


def round_group(
    levels: F32,
    slope: F32,
    hessian: F32,
    stiffness: F32,
    changes: F32,
    *,
    columns: slice,
    block: int,
    before: F32,
    scales: F32,
    limit: int,
) -> bool:
    """Gives each weight of a group its best level, one after another, and tells its block."""
    own, chosen = hessian[columns, columns], levels[:, columns].copy()
    local = slope[:, columns] - _turned(chosen, own) * (scales - before)[:, None]
    safe = np.where(scales > 0, scales, np.float32(np.inf))
    for k in range(chosen.shape[1]):
        best = np.clip(np.rint(chosen[:, k] + local[:, k] / (own[k, k] * safe)), -limit, limit)
        local -= own[k] * ((best - chosen[:, k]) * scales)[:, None]
        chosen[:, k] = best
    change = chosen * scales[:, None] - levels[:, columns] * before[:, None]
    has_moved = (chosen != levels[:, columns]).any(axis=1)
    stiffness[has_moved] = np.nan
    levels[:, columns] = chosen
    changes[:, columns.start - block : columns.stop - block] = change
    told = slice(block, block + changes.shape[1])
    _tell(slope[:, told], hessian[columns, told], change)
    return bool(has_moved.any())


def tell(slope: F32, hessian: F32, changes: F32, *, first: int, columns: slice) -> None:
    """Moves the slope of some columns by what the weights from `first` on moved."""
    _tell(slope[:, columns], hessian[first : first + changes.shape[1], columns], changes)


def _tell(slope: F32, rows: F32, changes: F32) -> None:
    for row, moved in zip(rows, changes.T, strict=True):
        slope -= row * moved[:, None]


def _turned(chosen: F32, block: F32) -> F32:
    """Return chosen [N, n] x block [n, n], summed in the order of the rows of the block."""
    total = np.zeros_like(chosen)
    for k, row in enumerate(block):
        total += row * chosen[:, k, None]
    return total


def _dot(first: F32, second: F32) -> F32:
    """Return the products of rows, [N]: element k goes to lane k mod 16; lanes are folded by halves."""
    products = np.pad(first * second, ((0, 0), (0, -first.shape[1] % LANES)))
    lanes = np.zeros((len(first), LANES), np.float32)
    for start in range(0, products.shape[1], LANES):
        lanes += products[:, start : start + LANES]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]
