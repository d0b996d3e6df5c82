"""The blocks of GGUF tensors: ternary (TQ1_0, TQ2_0, I2_S) and of 8, 6 and 4 bits; d is an fp16 scale.

    TQ2_0, 256 weights in 66 bytes:  qs[64] d     byte 32 h + m, bits 2n..2n+1: weight 128 h + 32 n + m
    TQ1_0, 256 weights in 54 bytes:  qs[48] qh[4] d, the first digit most significant
           qs[m]       m < 32: weights m + 32 n          (n = 0..4)
           qs[32 + m]  m < 16: weights 160 + m + 16 n    (n = 0..4)
           qh[m]       m <  4: weights 240 + m + 4 n     (n = 0..3, then a digit 0)
    I2_S,  128 weights in 32 bytes:  byte m, bits 6 - 2n..7 - 2n: weight 32 n + m; one float32 scale after the
           last block of the tensor, then 28 bytes of zeros
    Q6_K,  256 weights in 210 bytes: ql[128] qh[64] scales[16] d; weight i of a half of 128, l = i % 32:
           low 4 bits in ql[l + 32 (i / 32 % 2)], nibble i / 64; high 2 bits in qh[l], bits 2 (i / 32)
           weight = d x scales[i / 16] x (code - 32)
    Q8_0,  32 weights in 34 bytes:   d qs[32]     weight = d x qs
    Q4_0,  32 weights in 18 bytes:   d qs[16]     weight i: nibble i / 16 of qs[i % 16], d x (code - 8)

A ternary code is trit + 1. The five digits v of a TQ1_0 byte are stored as ceil(v x 256 / 243), so that a
reader gets them by multiplying with 3 and taking what overflows the byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.gguf import TAILS, TensorType

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 256
I2_S_BLOCK = 128
EIGHT_BIT_BLOCK = 32
FOUR_BIT_BLOCK = 32
HALF = 128
SUB_BLOCK = 16  # weights of Q6_K under one scale
LARGEST_CODE_6 = 31
LARGEST_HALF = 65504.0
SMALLEST_STEP = np.float32(2.0**-126)


def encode_tq2_0(trits: NDArray[np.int8], scales: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Encode trits int8 [N, K] with scales [N, K / 256] as TQ2_0: uint8 [N, K / 256 x 66].

    Raises:
        ValidationError: K is not a multiple of 256 or the scales have another shape.
    """
    codes = _codes(trits, scales).reshape(-1, 4, 32)
    return _joined(trits, [_packed(codes, bits=2).reshape(-1, 64), _bytes(scales)])


def encode_tq1_0(trits: NDArray[np.int8], scales: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Encode trits int8 [N, K] with scales [N, K / 256] as TQ1_0: uint8 [N, K / 256 x 54].

    Raises:
        ValidationError: K is not a multiple of 256 or the scales have another shape.
    """
    blocks = _codes(trits, scales)
    parts = [
        _digits(blocks[:, :160].reshape(-1, 5, 32)),
        _digits(blocks[:, 160:240].reshape(-1, 5, 16)),
        _digits(blocks[:, 240:].reshape(-1, 4, 4)),
    ]
    return _joined(trits, [*parts, _bytes(scales)])


def encode_i2_s(trits: NDArray[np.int8], scale: np.float32) -> NDArray[np.uint8]:
    """Encode trits int8 [N, K] under one scale as I2_S (blocks of 128): uint8 [N x K / 4 + 32].

    Raises:
        ValidationError: K is not a multiple of 128.
    """
    _require_blocks(trits, I2_S_BLOCK, "I2_S")
    codes = (np.ascontiguousarray(trits) + np.int8(1)).view(np.uint8).reshape(-1, 4, 32)
    tail = np.zeros(TAILS[TensorType.I2_S], np.uint8)
    tail[:4] = np.array([scale], "<f4").view(np.uint8)
    return np.concatenate([_packed(codes[:, ::-1], bits=2).reshape(-1), tail])


def encode_q6_k(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round float32 [N, K] to Q6_K: uint8 [N, K / 256 x 210].

    Each 16 weights are scaled so that the largest magnitude becomes -32, the end of the range that has one
    step more.

    Raises:
        ValidationError: K is not a multiple of 256, or a magnitude is beyond what an fp16 scale can hold.
    """
    _require_blocks(values, BLOCK, "Q6_K")
    groups = np.ascontiguousarray(values, np.float32).reshape(-1, BLOCK // SUB_BLOCK, SUB_BLOCK)
    wanted = _signed_largest(groups) / np.float32(-LARGEST_CODE_6 - 1)  # [blocks, 16]
    d = _half_away_from_zero(_signed_largest(wanted) / np.float32(-128))
    scales = _divided(wanted, d.astype(np.float32)[:, None], low=-128, high=127).astype(np.int8)
    step = scales.astype(np.float32) * d.astype(np.float32)[:, None]
    codes = _divided(groups, step[:, :, None], low=-LARGEST_CODE_6 - 1, high=LARGEST_CODE_6)
    unsigned = (codes.astype(np.int8) + np.int8(LARGEST_CODE_6 + 1)).view(np.uint8)
    low = _packed((unsigned & np.uint8(15)).reshape(-1, 2, 64), bits=4)
    high = _packed((unsigned >> np.uint8(4)).reshape(-1, 4, 32), bits=2)
    parts = [low.reshape(-1, 128), high.reshape(-1, 64), scales.view(np.uint8), _bytes(d)]
    return _joined(values, parts)


def encode_q8_0(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round float32 [N, K] to Q8_0: uint8 [N, K / 32 x 34].

    Raises:
        ValidationError: K is not a multiple of 32, or a magnitude is beyond what an fp16 scale can hold.
    """
    _require_blocks(values, EIGHT_BIT_BLOCK, "Q8_0")
    groups = np.ascontiguousarray(values, np.float32).reshape(-1, EIGHT_BIT_BLOCK)
    d = _half(np.abs(groups).max(axis=1) / np.float32(127), "Q8_0")
    codes = _divided(groups, d.astype(np.float32)[:, None], low=-127, high=127).astype(np.int8)
    return _joined(values, [_bytes(d), codes.view(np.uint8)])


def encode_q4_0(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round float32 [N, K] to Q4_0 as llama.cpp does: uint8 [N, K / 32 x 18].

    d is the value of the largest magnitude, with its sign, over -8; code = floor(weight / d + 8.5), at most
    15. A scale beyond fp16 is cut to its largest value (ggml-quants.c, quantize_row_q4_0_ref).

    Raises:
        ValidationError: K is not a multiple of 32.
    """
    _require_blocks(values, FOUR_BIT_BLOCK, "Q4_0")
    groups = np.ascontiguousarray(values, np.float32).reshape(-1, FOUR_BIT_BLOCK)
    place = np.abs(groups).argmax(axis=1)[:, None]  # of equal magnitudes the first
    d = np.take_along_axis(groups, place, axis=1) / np.float32(-8)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(np.abs(d) < SMALLEST_STEP, np.float32(0), np.float32(1) / d)
    codes = np.clip(np.floor(groups * inverse + np.float32(8.5)), 0, 15).astype(np.uint8)
    packed = _packed(codes.reshape(-1, 2, FOUR_BIT_BLOCK // 2), bits=4)
    return _joined(values, [_bytes(np.clip(d, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)), packed])


def _codes(trits: NDArray[np.int8], scales: NDArray[np.float16]) -> NDArray[np.uint8]:
    _require_blocks(trits, BLOCK, "A ternary block")
    expected = (trits.shape[0], trits.shape[1] // BLOCK)
    if scales.dtype != np.float16 or scales.shape != expected:
        raise ValidationError(
            f"Block scales must be float16 of shape {expected}, not {scales.dtype} of {scales.shape}."
        )
    return (np.ascontiguousarray(trits) + np.int8(1)).view(np.uint8).reshape(-1, BLOCK)


def _packed(codes: NDArray[np.uint8], *, bits: int) -> NDArray[np.uint8]:
    """Join codes [blocks, n, bytes] to bytes [blocks, bytes], the first in the lowest bits."""
    packed = codes[:, 0].copy()
    for index in range(1, codes.shape[1]):
        packed |= codes[:, index] << np.uint8(bits * index)
    return packed


def _digits(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Join digits [blocks, 4 or 5, bytes] to bytes: ceil(v x 256 / 243), the first digit most significant."""
    value = np.zeros((codes.shape[0], codes.shape[2]), np.uint16)
    for digit in range(5):
        value *= np.uint16(3)
        if digit < codes.shape[1]:
            value += codes[:, digit]
    return ((value * np.uint16(256) + np.uint16(242)) // np.uint16(243)).astype(np.uint8)


def _signed_largest(groups: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the value of the largest magnitude along the last axis, with its sign."""
    high, low = groups.max(axis=-1), groups.min(axis=-1)
    largest: NDArray[np.float32] = np.where(high > -low, high, low)
    return largest


def _divided(
    values: NDArray[np.float32], step: NDArray[np.float32], *, low: int, high: int
) -> NDArray[np.float32]:
    """Return values / step, rounded and clipped; 0 where the step is 0 or has no inverse in float32."""
    with np.errstate(divide="ignore"):
        inverse = np.where(np.abs(step) < SMALLEST_STEP, np.float32(0), np.float32(1) / step)
    rounded: NDArray[np.float32] = np.rint(values * inverse)
    np.clip(rounded, low, high, out=rounded)
    return rounded


def _half(values: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    if values.size and float(np.abs(values).max()) > LARGEST_HALF:
        raise ValidationError(f"A weight is too large for the fp16 scale of {name}; export it as F16 or F32.")
    return values.astype(np.float16)


def _half_away_from_zero(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round so that no scale above it is cut: small weights need scales that fp16 holds in few bits."""
    half = _half(values, "Q6_K")
    is_short = np.abs(half.astype(np.float32)) < np.abs(values)
    further = np.nextafter(half, np.copysign(np.float16(np.inf), values.astype(np.float16)))
    return np.where(is_short, further, half)


def _bytes(scales: NDArray[np.float16]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(scales, dtype="<f2").reshape(-1, 1).view(np.uint8)


def _joined(rows: NDArray[np.generic], parts: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.concatenate(parts, axis=1).reshape(rows.shape[0], -1)


def _require_blocks(values: NDArray[np.generic], block: int, name: str) -> None:
    if values.ndim != 2 or values.size == 0 or values.shape[1] % block:  # noqa: PLR2004 - a matrix
        raise ValidationError(
            f"{name} holds {block} weights: a matrix whose rows are a multiple of {block} is needed, "
            f"not one of shape {list(values.shape)}."
        )
