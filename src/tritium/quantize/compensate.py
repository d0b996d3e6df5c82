"""The compensated strategy: what rounding one weight spoils, the other weights of its row make good.

Wanted are levels and scales whose layer makes of the inputs behind the layers quantized already, X^, what the
source's weights make of the source's inputs: |X W' - X^ Q'|^2 is least. With H = X^'X^ that is a quadratic in
Q whose slope is P = W (X'X^) - Q H, and one weight's best level, all others fixed, is the level nearest to
q + P[k] / H[k, k]. Going round the columns so until nothing moves is QuantEase (arXiv 2309.01885); here the
scale of a group takes part in the round, as one more coordinate with an optimum of its own:
s + t'P / t'H t for its levels t. Every step lowers the error, so does the whole, and no matrix is inverted.

What GPTQ (arXiv 2210.17323) rounds once, with scales that stay, is a start for this descent and no better one
than plain rounding (docs/decisions/0008).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tritium.formats.scale_codes import encode_scales, nearest_scales
from tritium.kernels.cpu import dense_matmul
from tritium.kernels.descent import find_moves, round_group, tell, weigh_group
from tritium.quantize.planes import quantize_planes
from tritium.quantize.weights import QuantizedWeights, level_limit, storable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tritium.kernels.descent import Moves
    from tritium.quantize.inputs import LayerInputs, Quadratic

SWEEPS = 16  # at most; a piece of rows stops when no level moves
CHUNK_WEIGHTS = 1 << 22
BLOCK_COLUMNS = 512  # whose moves all other columns are told of together
# A scale moves where that lowers the error by this share of what its group adds to the quadratic, s t'Ht s,
# over the square of the largest level, for so much smaller is the error: every weight of the group moves with
# it, most such steps gain next to nothing, and they are what costs.
LEAST_GAIN = np.float32(1e-3)
ROOM_TO_GROW = np.float32(1.5)  # scales may grow so much beyond the largest one they begin with


def quantize_compensated(
    weights: NDArray[np.float32], *, inputs: LayerInputs, planes: int, group_size: int, threads: int = 1
) -> QuantizedWeights:
    """Quantize float32 [N, K] to tied trit-planes with nearly the source's output on the actual inputs.

    Args:
        weights: the layer's weights.
        inputs: real inputs, in the source and behind what is quantized already.
        planes: trit-planes.
        group_size: weights of a row that share a scale.
        threads: threads to use; they do not change the result.

    Raises:
        ValueError: an input is NaN or infinite.
    """
    plain = quantize_planes(weights, planes=planes, group_size=group_size, threads=threads)
    # H comes first: it refuses what is not finite.
    problem = inputs.quadratic(weights)
    levels, scales = np.empty_like(plain.levels), np.empty_like(plain.scales_float32)
    largest = plain.scales_float32.max(initial=0) * ROOM_TO_GROW
    for rows in _row_chunks(weights):
        # Of one chunk nothing is held when the next one begins.
        levels[rows], scales[rows] = _descended(
            _Descent(
                problem,
                weights,
                plain,
                rows=rows,
                limit=level_limit(planes),
                largest=largest,
                threads=threads,
            )
        )
    stored, unit = storable(scales)
    return QuantizedWeights(
        levels=levels, scales=stored, planes=planes, group_size=plain.group_size, scale_unit=unit
    )


def _descended(descent: _Descent) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the levels and scales of rows that have come all the way down."""
    for _ in range(SWEEPS):
        if not descent.sweep():
            break
    return descent.levels, descent.scales


class _Descent:
    """Rows on their way down: levels float32 [N, K], scales [N, G]."""

    def __init__(
        self,
        problem: Quadratic,
        weights: NDArray[np.float32],
        start: QuantizedWeights,
        *,
        rows: slice,
        limit: int,
        largest: np.float32,
        threads: int,
    ) -> None:
        self._problem, self._group_size = problem, start.group_size
        self._limit, self._largest, self._threads = limit, largest, threads
        self._least_gain = LEAST_GAIN / np.float32(limit**2)
        missed = start.dequantized(rows)
        np.subtract(weights[rows], missed, out=missed)
        self._slope = dense_matmul(missed, problem.hessian, threads=threads)
        del missed  # before more of the same size is asked for
        if problem.drift is not None:
            self._slope += dense_matmul(weights[rows], problem.drift, threads=threads)
        if problem.pull is not None:
            self._slope += problem.pull[rows]
        self.levels = start.levels[rows].astype(np.float32)
        self.scales = start.scales_float32[rows].copy()
        at_once = max(1, BLOCK_COLUMNS // self._group_size)
        groups = range(self.scales.shape[1])
        self._blocks = [groups[first : first + at_once] for first in groups[::at_once]]
        # Of every block, what its weights moved by when it was last stepped through.
        self._moves: list[Moves | None] = [None] * len(self._blocks)
        # Of every group in every row, levels x H x levels; NaN: not known.
        self._stiffness = np.full(self.scales.T.shape, np.nan, np.float32)

    def sweep(self) -> bool:
        """Step through all groups; returns whether a level moved."""
        has_moved = False
        for number, block in enumerate(self._blocks):
            columns = self._columns_of(block)
            self._hear(number)
            changes = np.empty((len(self.levels), columns.stop - columns.start), np.float32)
            for group in block:
                has_moved |= self._step(group, changes, block=columns.start)
            self._moves[number] = find_moves(changes, threads=self._threads)
        return has_moved

    def _hear(self, number: int) -> None:
        """Bring the slope of a block up to date, which does not know what the others moved by since."""
        for other in (*range(number + 1, len(self._blocks)), *range(number)):
            moves = self._moves[other]
            if moves is not None:
                tell(
                    self._slope,
                    self._problem.hessian,
                    moves,
                    first=self._columns(self._blocks[other][0]).start,
                    columns=self._columns_of(self._blocks[number]),
                    threads=self._threads,
                )

    def _columns_of(self, block: range) -> slice:
        return slice(self._columns(block[0]).start, self._columns(block[-1]).stop)

    def _columns(self, group: int) -> slice:
        first = group * self._group_size
        return slice(first, min(first + self._group_size, self.levels.shape[1]))

    def _step(self, group: int, changes: NDArray[np.float32], *, block: int) -> bool:
        """Move the scale and then the levels of one group, and tell its block; whether a level moved."""
        columns, stiffness = self._columns(group), self._stiffness[group]
        before = self.scales[:, group].copy()
        pull = weigh_group(
            self.levels,
            self._slope,
            self._problem.hessian,
            stiffness,
            columns=columns,
            threads=self._threads,
        )
        scales = self._better_scale(before, pull=pull, stiffness=stiffness)
        self.scales[:, group] = scales
        return round_group(
            self.levels,
            self._slope,
            self._problem.hessian,
            stiffness,
            changes,
            columns=columns,
            block=block,
            before=before,
            scales=scales,
            limit=self._limit,
            threads=self._threads,
        )

    def _better_scale(
        self,
        scale: NDArray[np.float32],
        *,
        pull: NDArray[np.float32],
        stiffness: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return the best scales [N] of a group that can be stored; where little is gained, the present."""
        wanted = scale + pull / np.where(stiffness > 0, stiffness, np.inf)
        found = self._stored(np.clip(wanted, 0, self._largest).astype(np.float32))
        step = found - scale
        gain = step * (2 * pull - step * stiffness)
        is_better = (found > 0) & (gain > self._least_gain * scale * scale * stiffness)
        return np.where(is_better, found, scale)

    def _stored(self, scales: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scales [N] of one group as they will be stored."""
        if self.scales.shape[1] == 1:
            return storable(scales[:, None])[0][:, 0].astype(np.float32)
        return nearest_scales(scales, self._unit)

    @cached_property
    def _unit(self) -> int:
        return encode_scales(np.array([self._largest]))[1]  # the largest decides it


def _row_chunks(weights: NDArray[np.float32]) -> Iterator[slice]:
    """Yield slices of rows: they do not know of each other, and memory stays bounded."""
    rows, columns = weights.shape
    step = max(1, CHUNK_WEIGHTS // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
