"""Q4_0, the obvious 4-bit alternative: 32 weights of a row in 18 bytes, an fp16 scale d and 4-bit codes.

Rounding and layout are those of llama.cpp (ggml-quants.c, quantize_row_q4_0_ref): d is the value of the
largest magnitude, with its sign, divided by -8; code = floor(weight / d + 8.5), at most 15; and

    weight = d x (code - 8)         byte j of 16: code j in the low half, code j + 16 in the high half
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 32  # weights
BLOCK_BYTES = 18
SCALE_BYTES = 2
ZERO_CODE = 8
LARGEST_CODE = 15
LARGEST_HALF = np.float32(65504.0)
SMALLEST_SCALE = np.float32(2.0**-126)  # a smaller one has no inverse in float32
CODES = np.arange(256, dtype=np.uint8)
LOW_WEIGHTS = (CODES & np.uint8(LARGEST_CODE)).astype(np.float32) - np.float32(ZERO_CODE)
HIGH_WEIGHTS = (CODES >> np.uint8(4)).astype(np.float32) - np.float32(ZERO_CODE)


def round_to_q4_0(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round weights float32 [N, K] to blocks: uint8 [N, K / 32, 18].

    A scale beyond fp16 is cut to its largest value.

    Raises:
        ValidationError: K is not a multiple of 32.
    """
    rows, columns = weights.shape
    if columns % BLOCK:
        raise ValidationError(f"Q4_0 holds blocks of {BLOCK} weights; {columns} do not divide into them.")
    blocks = np.ascontiguousarray(weights, np.float32).reshape(rows, -1, BLOCK)
    place = np.abs(blocks).argmax(axis=2)[:, :, None]  # of equal magnitudes the first
    scale = np.take_along_axis(blocks, place, axis=2) / np.float32(-ZERO_CODE)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(np.abs(scale) < SMALLEST_SCALE, np.float32(0), np.float32(1) / scale)
    codes = np.floor(blocks * inverse + np.float32(ZERO_CODE + 0.5))
    codes = np.clip(codes, 0, LARGEST_CODE).astype(np.uint8)
    half = np.clip(scale, -LARGEST_HALF, LARGEST_HALF).astype("<f2").view(np.uint8)
    packed = codes[:, :, : BLOCK // 2] | codes[:, :, BLOCK // 2 :] << np.uint8(4)
    return np.concatenate([half, packed], axis=2)


def q4_0_weights(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the weights that blocks [N, K / 32, 18] stand for: float32 [N, K]."""
    rows, count, _ = blocks.shape
    scale = np.ascontiguousarray(blocks[:, :, :SCALE_BYTES]).view("<f2").astype(np.float32)
    packed = blocks[:, :, SCALE_BYTES:]
    weights = np.empty((rows, count, BLOCK), np.float32)
    np.multiply(LOW_WEIGHTS[packed], scale, out=weights[:, :, : BLOCK // 2])
    np.multiply(HIGH_WEIGHTS[packed], scale, out=weights[:, :, BLOCK // 2 :])
    return weights.reshape(rows, count * BLOCK)
