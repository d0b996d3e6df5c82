"""What quantization makes of a weight matrix: integer levels with a scale per group."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tritium.formats.scale_codes import SMALLEST_LARGEST, decode_scales, encode_scales
from tritium.kernels.packing import TernaryWeight, pack_trits, to_compute_layout
from tritium.kernels.quantization import round_levels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

Float = TypeVar("Float", np.float32, np.float64)
Result = TypeVar("Result")

# Weights handled at a time: a few MB of working memory whatever the size of the layer.
CHUNK_WEIGHTS = 1 << 19
LARGEST_HALF = 65504.0
SMALLEST_NORMAL_HALF = 2.0**-14


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedWeights:
    """A quantized weight matrix: weight = level x scale, or level / scale where `divides` is set.

    Attributes:
        levels: int8 [N, K]; from -(3^P - 1) / 2 to (3^P - 1) / 2 for P trit-planes.
        scales: [1 or N, G] in the dtype that is stored (float16, float32, uint16 for bfloat16 bits, or uint8
            for codes of `formats.scale_codes`).
        planes: number of trit-planes P.
        group_size: weights of a row that share a scale (K where the row or the tensor has one).
        divides: the scale divides instead of multiplying.
        scale_unit: what codes of scales are counted in; None where scales are numbers.
    """

    levels: NDArray[np.int8]
    scales: NDArray[Any]
    planes: int
    group_size: int
    divides: bool = False
    scale_unit: int | None = None

    @property
    def scales_float32(self) -> NDArray[np.float32]:
        """The scales as float32 [1 or N, G], exactly."""
        if self.scale_unit is not None:
            return decode_scales(self.scales, self.scale_unit)
        if self.scales.dtype == np.uint16:
            return (self.scales.astype(np.uint32) << 16).view(np.float32)
        return self.scales.astype(np.float32)

    def packed(self) -> NDArray[np.uint8]:
        """Return the trits five to a byte, row after row: uint8 [P, ceil(N K / 5)], highest digit first."""
        digits = split_levels(self.levels.reshape(-1), planes=self.planes)
        return np.stack([pack_trits(trits) for trits in digits])

    def dequantized(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        """Return the weights these levels stand for: float32 [rows, K]."""
        scales = self.scales_float32
        if scales.shape[0] > 1:
            scales = scales[rows]
        levels = self.levels[rows].astype(np.float32)
        per_weight = np.repeat(scales, self.group_size, axis=1)[:, : levels.shape[1]]
        return (np.divide if self.divides else np.multiply)(levels, per_weight, out=levels)

    def ternary_weight(self) -> TernaryWeight:
        """Return the same weights in the layout of the kernels."""
        planes = [to_compute_layout(trits) for trits in split_levels(self.levels, planes=self.planes)]
        return TernaryWeight(
            planes=np.stack(planes),
            scales=np.ascontiguousarray(self.scales_float32),
            group_size=self.group_size,
            in_features=self.levels.shape[1],
            out_features=self.levels.shape[0],
            divides=self.divides,
        )


def level_limit(planes: int) -> int:
    """Return the largest level that `planes` trit-planes can hold: 1, 4 or 13."""
    return int((3**planes - 1) // 2)


def split_levels(levels: NDArray[np.int8], *, planes: int) -> Iterator[NDArray[np.int8]]:
    """Yield the balanced-ternary digits of int8 levels, the highest first, each int8 of the same shape."""
    rest = levels
    for plane in range(planes - 1, 0, -1):
        below = level_limit(plane)
        digit = (rest > below).astype(np.int8) - (rest < -below).astype(np.int8)
        yield digit
        rest = rest - digit * np.int8(3**plane)
    yield rest


def map_chunks(work: Callable[[slice], Result], rows: int, columns: int, *, threads: int) -> list[Result]:
    """Return what `work` makes of every slice of `row_chunks`, in their order, on so many threads."""
    chunks = list(row_chunks(rows, columns))
    if threads == 1 or len(chunks) == 1:
        return [work(chunk) for chunk in chunks]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, chunks))


def row_chunks(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices over the rows of a matrix that hold about CHUNK_WEIGHTS weights each."""
    step = max(1, CHUNK_WEIGHTS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def grouped(weights: NDArray[Float], *, group_size: int) -> NDArray[Float]:
    """Return [N, K] as groups [N x G, group_size]; a short last group is filled with zeros."""
    _rows, columns = weights.shape
    missing = -columns % group_size
    if missing:
        weights = np.pad(weights, ((0, 0), (0, missing)))
    return weights.reshape(-1, group_size)


def storable(scales: NDArray[np.float32]) -> tuple[NDArray[Any], int | None]:
    """Round scales [N, G] to what is stored: scales of groups to codes with a unit, those of rows to float16.

    Scales stay as they are where they are too small for codes, or where one of a row would leave float16's
    normal range.
    """
    if scales.shape[1] > 1:
        too_small = 0 < scales.max(initial=0) < SMALLEST_LARGEST
        return (scales, None) if too_small else encode_scales(scales)
    nonzero = scales[scales != 0]
    if nonzero.size and (nonzero.max() > LARGEST_HALF or nonzero.min() < SMALLEST_NORMAL_HALF):
        return scales, None
    return scales.astype(np.float16), None


def narrowest(scales: NDArray[np.float32]) -> tuple[NDArray[Any], int | None]:
    """Return scales [1 or N, G] in the fewest bytes that hold them exactly, with the unit of codes.

    Those are codes (of groups), float16, bfloat16 or float32.
    """
    if scales.shape[1] > 1:
        stored, unit = storable(scales)
        if unit is not None and np.array_equal(decode_scales(stored, unit), scales):
            return stored, unit
    with np.errstate(over="ignore"):  # what becomes infinite is not equal
        half = scales.astype(np.float16)
    if np.array_equal(half, scales):
        return half, None
    bits = np.ascontiguousarray(scales).view(np.uint32)
    return (scales, None) if (bits & 0xFFFF).any() else ((bits >> 16).astype(np.uint16), None)


def with_scales(
    weights: NDArray[np.float32],
    scales: NDArray[np.float32],
    *,
    planes: int,
    group_size: int,
    threads: int = 1,
) -> QuantizedWeights:
    """Quantize float32 [N, K] with scales [N, G], rounded as stored unless that would lose a lossless fit."""
    stored, unit = storable(scales)
    exact = stored.astype(np.float32) if unit is None else decode_scales(stored, unit)
    if not np.array_equal(exact, scales) and fits_exactly(
        weights, scales, planes=planes, group_size=group_size
    ):
        (stored, unit), exact = narrowest(scales), scales
    levels = round_levels(
        np.ascontiguousarray(weights),
        exact,
        group_size=group_size,
        limit=level_limit(planes),
        threads=threads,
    )
    size = weights.shape[1] if scales.shape[1] == 1 else group_size
    return QuantizedWeights(levels=levels, scales=stored, planes=planes, group_size=size, scale_unit=unit)


def is_lossless(weights: NDArray[np.float32], quantized: QuantizedWeights) -> bool:
    """Return whether the quantized weights equal float32 [N, K] exactly."""
    chunks = row_chunks(*weights.shape)
    return all(np.array_equal(quantized.dequantized(rows), weights[rows]) for rows in chunks)


def fits_exactly(
    weights: NDArray[np.float32], scales: NDArray[np.float32], *, planes: int, group_size: int
) -> bool:
    """Return whether float32 [N, K] are levels times these scales, as they are, [N, G]."""
    for rows in row_chunks(*weights.shape):
        chunk = np.ascontiguousarray(weights[rows])
        levels = round_levels(chunk, scales[rows], group_size=group_size, limit=level_limit(planes))
        per_weight = np.repeat(scales[rows], group_size, axis=1)[:, : weights.shape[1]]
        if not np.array_equal(levels * per_weight, chunk):
            return False
    return True
