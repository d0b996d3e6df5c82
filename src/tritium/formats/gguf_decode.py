"""From the bytes of GGUF tensors back to weights: ternary ones without loss, the others to float32.

gguf_blocks.py draws those that are written. The others, with d and m as fp16:

    Q4_K,  256 weights in 144 bytes: d m scales[12] qs[128]; weight i of the 32 under scale j = i / 32:
           nibble j % 2 of qs[32 (j / 2) + i % 32], d x scale_j x code - m x minimum_j
           scale and minimum of 6 bits: j < 4: the low bits of bytes j and j + 4; else the nibbles of byte
           j + 4, and above them the two high bits of bytes j - 4 and j
    Q2_0,  64 weights in 18 bytes or 128 in 34: d qs   weight i: bits 2 (i % 4) of qs[i / 4]

A ternary code is trit + 1; what no encoder of trits writes (a code 3, a TQ1_0 byte that stands for no digits)
is refused. Layouts as in ggml (ggml-common.h, ggml-quants.c) and bitnet.cpp (ggml-bitnet-mad.cpp, x86).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.floats import bfloat16_to_float32
from tritium.formats.gguf import BLOCKS, TAILS, TensorType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Float32 = NDArray[np.float32]

TERNARY = frozenset({TensorType.TQ1_0, TensorType.TQ2_0, TensorType.Q2_0, TensorType.I2_S})
ROUNDED = frozenset({TensorType.Q4_0, TensorType.Q4_K, TensorType.Q6_K, TensorType.Q8_0})
SCALE_BYTES = 2
NOT_A_TRIT = 3
NIBBLE, TWO_BITS, SIX_BITS = np.uint8(15), np.uint8(3), np.uint8(63)


def dequantize(kind: TensorType, data: Bytes) -> Float32:
    """Turn whole blocks of a dense type, uint8 [bytes], into float32 [weights] as ggml does."""
    if kind in _STORED:
        return _STORED[kind](data)
    with np.errstate(invalid="ignore", over="ignore"):  # whoever reads a tensor looks for NaN and Inf
        return _DEQUANTIZERS[kind](data.reshape(-1, BLOCKS[kind][1])).reshape(-1)


def ternary_scales(kind: TensorType, data: Bytes, *, block: int) -> NDArray[Any]:
    """Return the scales of a whole ternary tensor, uint8 [bytes]: float16 [blocks], or float32 [1] of I2_S.

    Raises:
        ValidationError: a scale is NaN or infinite, or that of I2_S is negative.
    """
    if kind is TensorType.I2_S:
        scales: NDArray[Any] = data[-TAILS[kind] :][:4].copy().view("<f4")
    else:
        blocks = data.reshape(-1, _block_bytes(kind, block))
        part = blocks[:, :SCALE_BYTES] if kind is TensorType.Q2_0 else blocks[:, -SCALE_BYTES:]
        scales = np.ascontiguousarray(part).view("<f2").reshape(-1)
    if not np.isfinite(scales).all() or (kind is TensorType.I2_S and scales[0] < 0):
        where = int(np.argmin(np.isfinite(scales)))
        raise ValidationError(f"the scale of block {where} is {scales[where]}")
    return scales


def ternary_trits(kind: TensorType, data: Bytes, *, block: int) -> NDArray[np.int8]:
    """Return the trits of whole blocks, uint8 [bytes] (of I2_S without its tail): int8 [weights].

    Raises:
        ValidationError: a code is 3, or a byte is none that an encoder writes.
    """
    if kind is TensorType.I2_S:
        return _trits_of(_unpacked(data.reshape(-1, 32), bits=2)[:, ::-1])
    blocks = data.reshape(-1, _block_bytes(kind, block))
    if kind is TensorType.Q2_0:
        return _trits_of(_unpacked(blocks[:, SCALE_BYTES:, None], bits=2).swapaxes(1, 2))
    codes = blocks[:, :-SCALE_BYTES]
    if kind is TensorType.TQ2_0:
        return _trits_of(_unpacked(codes.reshape(-1, 2, 32), bits=2, axis=2))
    return _tq1_0_trits(codes)


def dequantize_ternary(kind: TensorType, data: Bytes, *, block: int) -> Float32:
    """Turn a whole ternary tensor, uint8 [bytes], into float32 [weights]."""
    scales = ternary_scales(kind, data, block=block).astype(np.float32)
    codes = data[: -TAILS[kind]] if kind is TensorType.I2_S else data
    trits = ternary_trits(kind, codes, block=block)
    return (trits.reshape(scales.size, -1) * scales[:, None]).reshape(-1)


def _block_bytes(kind: TensorType, block: int) -> int:
    return SCALE_BYTES + block // 4 if kind is TensorType.Q2_0 else BLOCKS[kind][1]


def _unpacked(packed: Bytes, *, bits: int, axis: int = 1) -> Bytes:
    """Split every byte into its codes, those in the lowest bits first, along a new axis."""
    mask = np.uint8((1 << bits) - 1)
    parts = [(packed >> np.uint8(shift)) & mask for shift in range(0, 8, bits)]
    return np.stack(parts, axis=axis)


def _trits_of(codes: Bytes) -> NDArray[np.int8]:
    flat = codes.reshape(-1)
    if flat.max(initial=0) >= NOT_A_TRIT:
        raise ValidationError("a code is 3, which is not a trit")
    return flat.view(np.int8) - np.int8(1)


def _digit_table() -> tuple[NDArray[np.int8], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the five trits of every byte, and which bytes hold five digits, and which four and a 0."""
    values = np.arange(243)
    digits = np.stack([values // 3**power % 3 for power in (4, 3, 2, 1, 0)], axis=1)
    stored = -(-values * 256 // 243)
    trits = np.zeros((256, 5), np.int8)
    trits[stored] = digits - 1
    holds_five, holds_four = np.zeros(256, np.bool_), np.zeros(256, np.bool_)
    holds_five[stored] = True
    holds_four[stored[digits[:, 4] == 0]] = True
    return trits, holds_five, holds_four


_TRITS, _HOLDS_FIVE, _HOLDS_FOUR = _digit_table()


def _tq1_0_trits(codes: Bytes) -> NDArray[np.int8]:
    parts = []
    for begin, end, digits, known in (
        (0, 32, 5, _HOLDS_FIVE),
        (32, 48, 5, _HOLDS_FIVE),
        (48, 52, 4, _HOLDS_FOUR),
    ):
        part = codes[:, begin:end]
        if not known[part].all():
            wrong = int(part[~known[part]][0])
            raise ValidationError(f"a byte of {wrong} stands for no {digits} trits")
        parts.append(_TRITS[part][:, :, :digits].swapaxes(1, 2).reshape(codes.shape[0], -1))
    return np.concatenate(parts, axis=1).reshape(-1)


def _half(part: Bytes) -> Float32:
    """Read fp16 [blocks, 1] from two bytes a block, as float32."""
    return np.ascontiguousarray(part).view("<f2").astype(np.float32)


def _q8_0(blocks: Bytes) -> Float32:
    return blocks[:, 2:].view(np.int8).astype(np.float32) * _half(blocks[:, :2])


_BYTES = np.arange(256, dtype=np.uint8)
_LOW_CODES = (_BYTES & NIBBLE).astype(np.float32) - np.float32(8)
_HIGH_CODES = (_BYTES >> np.uint8(4)).astype(np.float32) - np.float32(8)


def _q4_0(blocks: Bytes) -> Float32:
    packed, scale = blocks[:, 2:], _half(blocks[:, :2])
    weights = np.empty((len(blocks), 2, 16), np.float32)
    np.multiply(_LOW_CODES[packed], scale, out=weights[:, 0])  # tables: the 4-bit model decodes at each call
    np.multiply(_HIGH_CODES[packed], scale, out=weights[:, 1])
    return weights


def _q4_k(blocks: Bytes) -> Float32:
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    codes = _unpacked(blocks[:, 16:].reshape(-1, 4, 32), bits=4, axis=2).reshape(-1, 8, 32)
    steps = _half(blocks[:, :2]) * scales.astype(np.float32)
    offsets = _half(blocks[:, 2:4]) * minima.astype(np.float32)
    return steps[:, :, None] * codes.astype(np.float32) - offsets[:, :, None]


def _six_bit_pairs(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Return the eight scales and the eight minima of Q4_K, each uint8 [blocks, 8]."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    high_scales = third & NIBBLE | (first >> np.uint8(6)) << np.uint8(4)
    high_minima = third >> np.uint8(4) | (second >> np.uint8(6)) << np.uint8(4)
    return (
        np.concatenate([first & SIX_BITS, high_scales], axis=1),
        np.concatenate([second & SIX_BITS, high_minima], axis=1),
    )


def _q6_k(blocks: Bytes) -> Float32:
    low = _unpacked(blocks[:, :128].reshape(-1, 2, 64), bits=4, axis=2).reshape(-1, 2, 4, 32)
    high = _unpacked(blocks[:, 128:192].reshape(-1, 2, 32), bits=2, axis=2)
    codes = (low | high << np.uint8(4)).view(np.int8) - np.int8(32)
    steps = _half(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return codes.reshape(-1, 16, 16).astype(np.float32) * steps[:, :, None]


def _bfloat16(data: Bytes) -> Float32:
    return bfloat16_to_float32(data.view("<u2"))


_STORED: Final[Mapping[TensorType, Callable[[Bytes], Float32]]] = {
    TensorType.F32: lambda data: data.view("<f4"),
    TensorType.F16: lambda data: data.view("<f2").astype(np.float32),
    TensorType.BF16: _bfloat16,
}
_DEQUANTIZERS: Final[Mapping[TensorType, Callable[[Bytes], Float32]]] = {
    TensorType.Q4_0: _q4_0,
    TensorType.Q4_K: _q4_k,
    TensorType.Q6_K: _q6_k,
    TensorType.Q8_0: _q8_0,
}
