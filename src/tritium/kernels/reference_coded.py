"""The numpy truth of coded matrices: what the kernels of `csrc/coded*.h` must compute, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tritium.errors import ValidationError
from tritium.kernels.coded import CODE_BLOCK, CODE_GROUP, CODE_ROWS, CodedWeight, tiles_shape
from tritium.kernels.reference import as_float32, sum_lanes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32: TypeAlias = NDArray[np.float32]

SCALES_ABOVE = 8
SCALES_BELOW = 16
SMALLEST_GROUP = np.float32(1e-30)
LARGEST_WEIGHT = 1e15
GROUPS = CODE_BLOCK // CODE_GROUP


def round_to_codes(weight: NDArray[np.float32 | np.uint16], *, bits: int, threads: int = 1) -> CodedWeight:
    """Rounds a matrix [N, K], float32 or bfloat16 bits, to codes; each group takes its best scale."""
    del threads
    dense = as_float32(weight)
    if not (np.abs(dense) <= LARGEST_WEIGHT).all():
        raise ValidationError("weight holds a value that is not finite or beyond 10^15.")
    rows, columns = dense.shape
    tiles, blocks, _ = tiles_shape(rows, columns, bits=bits)
    wide = np.zeros((tiles * CODE_ROWS, blocks * GROUPS, CODE_GROUP), np.float32)
    wide.reshape(len(wide), -1)[:rows, :columns] = dense
    most = np.float32(2 ** (bits - 1) - 1)
    absmax = np.abs(wide).max(-1)
    middle = _bfloat16_bits(absmax / most)
    best = np.zeros(absmax.shape, np.uint16)
    least = np.full(absmax.shape, np.inf, np.float32)
    for step in range(SCALES_ABOVE, -SCALES_BELOW - 1, -1):
        candidate = np.where(absmax < SMALLEST_GROUP, 1 << 14, middle.astype(np.int64) + step).astype(
            np.uint16
        )
        scale = as_float32(candidate)[..., None]
        error = wide - _rounded(wide, scale, most) * scale
        squares = error * error
        total = sum_lanes(squares[..., :16] + squares[..., 16:])
        best, least = np.where(total < least, candidate, best), np.minimum(total, least)
    best[absmax < SMALLEST_GROUP] = 0
    codes = np.zeros(wide.shape, np.int64)
    used = best > 0
    codes[used] = _rounded(wide[used], as_float32(best[used])[:, None], most)
    return CodedWeight(
        tiles=_to_tiles(codes + 2 ** (bits - 1), best, bits=bits),
        bits=bits,
        in_features=columns,
        out_features=rows,
    )


def read_codes(weight: CodedWeight) -> tuple[NDArray[np.int64], F32]:
    """Reads codes less their offset [N', G, 32] and scales [N', G]; N' and G count the padding."""
    tiles, blocks, size = weight.tiles.shape
    code_bytes = CODE_ROWS * CODE_BLOCK * weight.bits // 8
    lines = weight.tiles[..., :code_bytes].reshape(tiles, blocks, GROUPS, -1, CODE_ROWS, 4).astype(np.int64)
    if weight.bits == 8:  # noqa: PLR2004 - bits of a code
        units = lines
    else:
        nibbles = np.stack([lines[:, :, :, :4] & 15, lines[:, :, :, :4] >> 4], axis=4)
        upper = np.stack([lines[:, :, :, 4:] >> shift & 3 for shift in (0, 2, 4, 6)], axis=4)
        shape = (tiles, blocks, GROUPS, 8, CODE_ROWS, 4)
        units = nibbles.reshape(shape) | upper.reshape(shape) << 4
    codes = units.transpose(0, 4, 1, 2, 3, 5).reshape(tiles * CODE_ROWS, blocks * GROUPS, CODE_GROUP)
    halves = np.ascontiguousarray(weight.tiles[..., code_bytes:size]).view("<u2")
    scales = as_float32(halves.reshape(tiles, blocks, GROUPS, CODE_ROWS).astype(np.uint16))
    return codes - 2 ** (weight.bits - 1), scales.transpose(0, 3, 1, 2).reshape(tiles * CODE_ROWS, -1)


def coded_matmul(weight: CodedWeight, q: NDArray[np.int8], scale: F32, *, threads: int = 1) -> F32:
    """Multiplies int8 activations [M, Kp] with scales [M] by a coded matrix: float32 [M, N]."""
    del threads
    codes, scales = read_codes(weight)
    codes, scales = codes[: weight.out_features], scales[: weight.out_features]
    inputs = np.zeros((len(q), codes.shape[1], CODE_GROUP), np.int64)
    inputs.reshape(len(q), codes.shape[1] * CODE_GROUP)[:, : weight.in_features] = q[:, : weight.in_features]
    total = np.zeros((len(q), weight.out_features), np.float32)
    for group in range(codes.shape[1]):
        sums = inputs[:, group] @ codes[:, group].T
        total += sums.astype(np.float32) * scales[:, group]
    result: F32 = total / scale[:, None]
    return result


def coded_lookup(weight: CodedWeight, ids: NDArray[np.int32]) -> F32:
    """Reads rows `ids` [T] of a coded matrix as floats: float32 [T, K]."""
    codes, scales = read_codes(weight)
    rows = codes[ids].astype(np.float32) * scales[ids][..., None]
    return np.ascontiguousarray(rows.reshape(len(ids), -1)[:, : weight.in_features])


def _rounded(values: F32, scale: F32, most: np.float32) -> F32:
    rounded: F32 = np.rint(np.clip(values * (np.float32(1) / scale), -most, most))
    return rounded


def _bfloat16_bits(values: F32) -> NDArray[np.uint16]:
    bits = values.view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


def _to_tiles(codes: NDArray[np.int64], scales: NDArray[np.uint16], *, bits: int) -> NDArray[np.uint8]:
    """Lays codes [N', G, 32] and the bits of their scales [N', G] out as tiles."""
    tiles, blocks = codes.shape[0] // CODE_ROWS, codes.shape[1] // GROUPS
    units = codes.reshape(tiles, CODE_ROWS, blocks, GROUPS, 8, 4).transpose(0, 2, 3, 4, 1, 5)
    if bits == 8:  # noqa: PLR2004 - bits of a code
        lines = units
    else:
        pairs = units.reshape(tiles, blocks, GROUPS, 4, 2, CODE_ROWS, 4)
        nibbles = pairs[:, :, :, :, 0] & 15 | (pairs[:, :, :, :, 1] & 15) << 4
        fours = units.reshape(tiles, blocks, GROUPS, 2, 4, CODE_ROWS, 4)
        upper = sum(fours[:, :, :, :, part] >> 4 << 2 * part for part in range(4))
        lines = np.concatenate([nibbles, upper], axis=3)
    halves = scales.reshape(tiles, CODE_ROWS, blocks, GROUPS).transpose(0, 2, 3, 1)
    return np.concatenate(
        [
            np.ascontiguousarray(lines.astype(np.uint8)).reshape(tiles, blocks, -1),
            np.ascontiguousarray(halves.astype("<u2")).reshape(tiles, blocks, -1).view(np.uint8),
        ],
        axis=-1,
    )
