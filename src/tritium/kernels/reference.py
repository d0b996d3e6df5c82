"""The numpy truth: what every kernel must compute, written to be read rather than to be fast.

Integer results of the native kernels are bit-identical to these. So are dense sums: a float32 reduction runs
in one fixed order (sixteen lanes, then a tree), which neither batch, threads nor instruction set can change.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tritium.errors import ProcessingError, ValidationError
from tritium.kernels.reference_attention import paged_attention, ragged_attention, write_kv
from tritium.kernels.reference_functions import bound, gelu_tanh_multiply
from tritium.kernels.weight import BLOCK, TernaryWeight, padded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32: TypeAlias = NDArray[np.float32]
    I8: TypeAlias = NDArray[np.int8]
    I32: TypeAlias = NDArray[np.int32]
    U8: TypeAlias = NDArray[np.uint8]

__all__ = [
    "bound",
    "dense_matmul",
    "embedding_lookup",
    "from_compute_layout",
    "gelu",
    "gelu_tanh_multiply",
    "layer_norm",
    "log_probabilities",
    "pack_trits",
    "packed5_to_compute",
    "paged_attention",
    "quantize_activations",
    "ragged_attention",
    "relu2_multiply",
    "rms_norm",
    "rope_inplace",
    "sample",
    "silu_multiply",
    "softmax",
    "ternary_accumulate",
    "ternary_lookup",
    "ternary_matmul",
    "to_compute_layout",
    "unpack_trits",
    "write_kv",
]

LANES = 16
POWERS = 3 ** np.arange(5)
TOP_BYTE = 242  # 3^5 - 1


def _require_trits(trits: I8) -> None:
    if trits.dtype != np.int8 or trits.ndim == 0:
        raise ValidationError(f"Trits must be an int8 array with at least one axis, not {trits.dtype}.")
    if trits.size and (trits.min() < -1 or trits.max() > 1):
        raise ValidationError("Trits must be -1, 0 or 1; the array holds another value.")


def pack_trits(trits: I8) -> U8:
    """Packs trits [..., n] into bytes [..., ceil(n / 5)], base 3, the first trit least significant."""
    _require_trits(trits)
    missing = -trits.shape[-1] % 5
    digits = np.pad(
        trits.astype(np.int64) + 1, [(0, 0)] * (trits.ndim - 1) + [(0, missing)], constant_values=1
    )
    digits = digits.reshape(*trits.shape[:-1], digits.shape[-1] // 5, 5)
    packed: U8 = (digits * POWERS).sum(-1).astype(np.uint8)
    return packed


def unpack_trits(packed: U8, *, count: int) -> I8:
    """Unpacks bytes [..., ceil(count / 5)] into trits [..., count]; refuses bytes above 242."""
    if packed.dtype != np.uint8 or packed.ndim == 0 or count < 0 or packed.shape[-1] != -(-count // 5):
        raise ValidationError(
            f"{count} trits are packed in uint8 [..., {-(-count // 5)}], "
            f"not {packed.dtype} of shape {packed.shape}."
        )
    if packed.size and packed.max() > TOP_BYTE:
        raise ValidationError(f"A byte of packed trits is at most {TOP_BYTE}, found {packed.max()}.")
    digits = packed[..., None].astype(np.int64) // POWERS % 3
    flat = digits.reshape(*packed.shape[:-1], packed.shape[-1] * 5)
    return np.ascontiguousarray(flat[..., :count] - 1, dtype=np.int8)


def to_compute_layout(trits: I8) -> U8:
    """Lays trits [N, K] out as uint8 [N, Kp / 4]: element 32d + j of a block in byte j, bits 2d, 2d + 1."""
    _require_trits(trits)
    if trits.ndim != 2:  # noqa: PLR2004 - N, K
        raise ValidationError(f"The compute layout is made of trits [N, K], not of shape {trits.shape}.")
    rows, count = trits.shape
    codes = np.pad(trits + 1, [(0, 0), (0, padded(count) - count)], constant_values=1).astype(np.uint8)
    digits = codes.reshape(rows, padded(count) // BLOCK, 4, BLOCK // 4)
    shifted = digits << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    joined: U8 = np.bitwise_or.reduce(shifted, axis=2)
    return joined.reshape(rows, padded(count) // 4)


def from_compute_layout(planes: U8, *, count: int) -> I8:
    """Reads uint8 [N, Kp / 4] back into trits int8 [N, count]."""
    if planes.dtype != np.uint8 or planes.shape[1:] != (padded(count) // 4,):
        raise ValidationError(
            f"{count} columns need uint8 [N, {padded(count) // 4}], "
            f"not {planes.dtype} of shape {planes.shape}."
        )
    rows = planes.shape[0]
    packed = planes.reshape(rows, padded(count) // BLOCK, 1, BLOCK // 4)
    blocks = packed >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    if blocks.size and blocks.max() > 2:  # noqa: PLR2004 - code 3 is no trit
        raise ValidationError("The compute layout holds code 3, which is no trit.")
    codes = blocks.reshape(rows, padded(count))[:, :count]
    return codes.astype(np.int8) - np.int8(1)


def packed5_to_compute(packed: U8, *, count: int) -> U8:
    """Turns rows packed five to a byte into the compute layout."""
    return to_compute_layout(unpack_trits(packed, count=count))


def quantize_activations(x: F32) -> tuple[I8, F32]:
    """Quantizes each row of x [M, K] to int8 [M, Kp] with its scale [M]: 127 x (1 / max(absmax, 1e-5))."""
    rows, count = x.shape
    absmax = np.fmax.reduce(np.abs(x), axis=1, initial=np.float32(1e-5))
    scale = (np.float32(1) / absmax) * np.float32(
        127
    )  # torch divides a number by a tensor in these two steps
    with np.errstate(invalid="ignore"):
        scaled = np.rint(x * scale[:, None])
    q = np.zeros((rows, padded(count)), dtype=np.int8)
    q[:, :count] = np.clip(np.nan_to_num(scaled, nan=0.0), -128, 127).astype(np.int8)
    return q, scale


def ternary_accumulate(weight: TernaryWeight, q: I8) -> I32:
    """The integer part of `ternary_matmul`: int32 [M, N, G], exact."""
    rows, count, groups = q.shape[0], weight.in_features, weight.groups
    values = np.zeros((weight.out_features, groups * weight.group_size), dtype=np.int64)
    for plane in weight.planes:
        values *= 3
        values[:, :count] += from_compute_layout(plane, count=count)
    inputs = np.zeros((rows, values.shape[1]), dtype=np.int64)
    inputs[:, :count] = q[:, :count]
    grouped = (weight.out_features, groups, weight.group_size)
    sums = np.einsum("ngk,mgk->mng", values.reshape(grouped), inputs.reshape(rows, *grouped[1:]))
    exact: I32 = sums.astype(np.int32)
    return exact


def ternary_matmul(weight: TernaryWeight, q: I8, scale: F32, *, threads: int = 1) -> F32:
    """Multiplies int8 activations [M, Kp] by a ternary weight: float32 [M, N]."""
    del threads
    sums = ternary_accumulate(weight, q).astype(np.float32)
    if weight.divides:
        return sums[:, :, 0] / (weight.scales[:, 0] * scale[:, None])
    total = np.zeros(sums.shape[:2], dtype=np.float32)
    for group in range(weight.groups):
        total += sums[:, :, group] * weight.scales[:, group]
    return total / scale[:, None]


def ternary_lookup(weight: TernaryWeight, ids: NDArray[np.int32]) -> F32:
    """Reads rows `ids` [T] of a ternary weight as floats: float32 [T, K]."""
    levels = np.zeros((len(ids), weight.in_features), dtype=np.float32)
    for plane in weight.planes:
        levels = 3 * levels + from_compute_layout(plane[ids], count=weight.in_features)
    scales = np.broadcast_to(weight.scales, (weight.out_features, weight.groups))[ids]
    per_weight = np.repeat(scales, weight.group_size, axis=1)[:, : weight.in_features]
    rows: F32 = levels / per_weight if weight.divides else levels * per_weight
    return rows


def sum_lanes(values: F32) -> F32:
    """Sums the last axis: element k goes to lane k mod 16; the lanes are folded by halves at the end."""
    missing = -values.shape[-1] % LANES
    wide = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)])
    wide = wide.reshape(*values.shape[:-1], wide.shape[-1] // LANES, LANES)
    lanes = np.zeros((*values.shape[:-1], LANES), dtype=np.float32)
    for step in range(wide.shape[-2]):
        lanes += wide[..., step, :]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def as_float32(weight: NDArray[np.float32 | np.uint16]) -> F32:
    """Reads float32 or the bits of bfloat16 as float32, exactly."""
    if weight.dtype == np.uint16:  # bfloat16 bits
        return (weight.astype(np.uint32) << 16).view(np.float32)
    return weight.astype(np.float32, copy=False)


def dense_matmul(x: F32, weight: NDArray[np.float32 | np.uint16], *, threads: int = 1) -> F32:
    """Multiplies x [M, K] by a dense weight [N, K], float32 or bfloat16 bits: float32 [M, N]."""
    del threads
    dense = as_float32(weight)
    return (
        np.stack([sum_lanes(row * dense) for row in x]) if len(x) else np.zeros((0, len(dense)), np.float32)
    )


def embedding_lookup(weight: NDArray[np.float32 | np.uint16], ids: I32) -> F32:
    """Reads rows `ids` [T] of a table [V, D]: float32 [T, D]."""
    return as_float32(weight[ids])


def rms_norm(x: F32, weight: F32, *, eps: float) -> F32:
    """Divides each row of x [M, D] by its root mean square and multiplies by `weight` [D]."""
    mean = sum_lanes(x * x) / np.float32(x.shape[1])
    inverse: F32 = np.float32(1) / np.sqrt(mean + np.float32(eps))
    return x * inverse[:, None] * weight


def layer_norm(x: F32, weight: F32, bias: F32, *, eps: float) -> F32:
    """Normalises each row of x [M, D] to mean 0 and variance 1, then applies `weight` and `bias` [D]."""
    size = np.float32(x.shape[1])
    centred = x - (sum_lanes(x) / size)[:, None]
    variance = sum_lanes(centred * centred) / size
    inverse: F32 = np.float32(1) / np.sqrt(variance + np.float32(eps))
    return centred * inverse[:, None] * weight + bias


def silu_multiply(gate: F32, up: F32) -> F32:
    """SwiGLU: gate x sigmoid(gate) x up, elementwise."""
    with np.errstate(over="ignore"):
        gated = gate / (np.float32(1) + np.exp(-gate)) * up
    return gated.astype(np.float32, copy=False)


def relu2_multiply(gate: F32, up: F32) -> F32:
    """Squared ReLU of `gate` times `up`, elementwise."""
    positive = np.maximum(gate, np.float32(0))
    return positive * positive * up


def gelu(x: F32) -> F32:
    """The exact (erf) GELU, elementwise."""
    values = [0.5 * v * (1.0 + math.erf(v / math.sqrt(2.0))) for v in x.ravel().tolist()]
    return np.array(values, dtype=np.float32).reshape(x.shape)


def softmax(x: F32) -> F32:
    """Softmax over the last axis of x [M, D]."""
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: F32 = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shares


def rope_inplace(x: F32, positions: I32, inv_freq: F32, *, scaling: float = 1.0) -> None:
    """Rotates x [T, H, D] in place by its positions [T], halves paired as (i, i + D/2)."""
    angles = positions[:, None].astype(np.float32) * inv_freq
    cosine = (np.cos(angles) * np.float32(scaling))[:, None, :]
    sine = (np.sin(angles) * np.float32(scaling))[:, None, :]
    half = x.shape[2] // 2
    first, second = x[..., :half].copy(), x[..., half:].copy()
    x[..., :half] = first * cosine - second * sine
    x[..., half:] = second * cosine + first * sine


def sample(
    logits: F32, *, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, random: float
) -> tuple[int, float]:
    """Draws a token id from logits [V]; returns it with its log-probability under softmax(logits).

    Filters apply in the order temperature, top_k, top_p, min_p; the draw walks the kept ids upwards until
    their probability exceeds `random`.
    """
    if np.isnan(logits).any() or not np.isfinite(logits.max()):
        raise ProcessingError("The logits hold NaN or infinity: the model's output cannot be sampled.")
    raw = logits.astype(np.float64) - float(logits.max())
    log_total = math.log(np.exp(raw).sum())
    if temperature == 0.0:
        best = int(np.argmax(logits))
        return best, -log_total
    weights = np.exp(raw / temperature)
    order = np.lexsort((np.arange(len(raw)), -logits.astype(np.float64)))
    if 0 < top_k < len(order):
        order = order[:top_k]
    if top_p < 1.0:
        before = np.cumsum(weights[order]) - weights[order]
        order = order[before < top_p * weights[order].sum()]
    kept = np.sort(order[weights[order] >= min_p])
    cumulative = np.cumsum(weights[kept])
    index = min(int(np.searchsorted(cumulative, random * cumulative[-1], side="right")), len(kept) - 1)
    token = int(kept[index])
    return token, float(raw[token] - log_total)


def sample_rows(
    logits: list[F32],
    *,
    temperature: list[float],
    top_k: list[int],
    top_p: list[float],
    min_p: list[float],
    random: list[float],
    allowed: list[NDArray[np.uint8] | None] | None = None,
    threads: int = 1,
) -> list[int]:
    """Draws one token id from each row of logits [V]; -1 where a row is not finite or allows no token."""
    del threads
    filters = zip(temperature, top_k, top_p, min_p, random, strict=True)
    masks = [None] * len(logits) if allowed is None else allowed
    tokens = []
    for row, mask, (heat, k, p, low, draw) in zip(logits, masks, filters, strict=True):
        kept = row if mask is None else _keep_allowed(row, mask)
        is_possible = np.isfinite(row).all() and np.isfinite(kept).any()
        tokens.append(
            sample(kept, temperature=heat, top_k=k, top_p=p, min_p=low, random=draw)[0] if is_possible else -1
        )
    return tokens


def _keep_allowed(logits: F32, mask: NDArray[np.uint8]) -> F32:
    bits = np.unpackbits(mask, bitorder="little")[: len(logits)]
    return np.where(bits == 1, logits, np.float32(-np.inf))


def log_probabilities(logits: F32, *, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Returns the log-probability of a token under softmax(logits [V]), and the `top` best (id, logprob)."""
    if np.isnan(logits).any() or not np.isfinite(logits.max()):
        raise ProcessingError("The logits hold NaN or infinity: the model's output has no probabilities.")
    raw = logits.astype(np.float64) - float(logits.max())
    logprobs = raw - math.log(np.exp(raw).sum())
    order = np.lexsort((np.arange(len(logits)), -logits))[:top]  # differences may round to the same
    return float(logprobs[token]), [(int(index), float(logprobs[index])) for index in order]
