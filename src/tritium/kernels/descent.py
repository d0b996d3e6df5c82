"""Descent over the levels of a group, in place; the twins are in `tritium.kernels.reference_descent`.

The error of a layer's output is a quadratic in its weights with the Hessian H. A row's slope is half its
negative gradient: moving one weight by d moves the slope by -d times that weight's row of H. Products are
added in the order of the columns, so that a result depends neither on the threads nor on the instruction set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.kernels import _native
from tritium.kernels.checks import refuses_bad_arrays
from tritium.kernels.device import use_detected_isa

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

use_detected_isa()

Moves = _native.Moves  # the weights of some columns that moved, and by how much


@refuses_bad_arrays
def weigh_group(
    levels: NDArray[np.float32],
    slope: NDArray[np.float32],
    hessian: NDArray[np.float32],
    stiffness: NDArray[np.float32],
    *,
    columns: slice,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Tells what pulls at the scale of one group in every row, t'P for its levels t and slope P: float32 [N].

    Args:
        levels: whole numbers, float32 [N, K].
        slope: float32 [N, K].
        hessian: symmetric, float32 [K, K].
        stiffness: t'Ht of the group, float32 [N]; filled in where it is NaN.
        columns: of the group; both ends are given.
        threads: threads to use.

    Raises:
        ValidationError: a dtype or a shape that does not fit, or columns that are not there.
    """
    return _native.weigh_group(
        levels, slope, hessian, stiffness, columns.start, columns.stop - columns.start, threads
    )


@refuses_bad_arrays
def round_group(
    levels: NDArray[np.float32],
    slope: NDArray[np.float32],
    hessian: NDArray[np.float32],
    stiffness: NDArray[np.float32],
    changes: NDArray[np.float32],
    *,
    columns: slice,
    block: int,
    before: NDArray[np.float32],
    scales: NDArray[np.float32],
    limit: int,
    threads: int = 1,
) -> bool:
    """Gives each weight of a group its best level, one after another, and tells its block; whether one moved.

    Args:
        levels: whole numbers, float32 [N, K]; those of the group change.
        slope: float32 [N, K]; that of the block changes wherever a weight of the row did.
        hessian: symmetric with a positive diagonal, float32 [K, K].
        stiffness: float32 [N]; becomes NaN where a level moved.
        changes: by how much the weights of the block moved, float32 [N, B]; those of the group are written.
        columns: of the group; both ends are given.
        block: the first of the B columns in whose midst the group lies.
        before: the scales that the slope knows of, float32 [N].
        scales: the scales from now on, float32 [N]; with 0 levels stay.
        limit: the largest level, up to 127.
        threads: threads to use.

    Raises:
        ValidationError: a dtype or a shape that does not fit, or columns that are not there.
    """
    return _native.round_group(
        levels,
        slope,
        hessian,
        stiffness,
        changes,
        columns.start,
        columns.stop - columns.start,
        block,
        before,
        scales,
        limit,
        threads,
    )


@refuses_bad_arrays
def find_moves(changes: NDArray[np.float32], *, threads: int = 1) -> Moves:
    """Finds the weights of some columns that moved, of changes float32 [N, B], as `round_group` wrote them.

    Raises:
        ValidationError: a dtype or a shape that does not fit.
    """
    return _native.find_moves(changes, threads)


@refuses_bad_arrays
def tell(
    slope: NDArray[np.float32],
    hessian: NDArray[np.float32],
    moves: Moves,
    *,
    first: int,
    columns: slice,
    threads: int = 1,
) -> None:
    """Moves the slope of some columns by what weights of other columns moved.

    Args:
        slope: float32 [N, K].
        hessian: symmetric, float32 [K, K].
        moves: of N rows.
        first: the first of the columns that moved.
        columns: whose slopes move; both ends are given.
        threads: threads to use.

    Raises:
        ValidationError: a dtype or a shape that does not fit, or columns that are not there.
    """
    _native.tell(slope, hessian, moves, first, columns.start, columns.stop - columns.start, threads)
