"""Is a checkpoint what its config says? What its own numbers contradict is refused before any work.

Two facts of trained transformers are used, both far from their limits in every sound model:

- A layer keeps the size of what it reads, give or take two powers of ten. A scale that divides where it
  should multiply (or the other way) makes it wrong by mean|W|^2: often four powers and more.
- The inputs that a norm amplifies are the ones that the layer behind it uses most, so that the energies of a
  layer's columns follow the weights of that norm (where there is none, behind attention, the energies of the
  value projection's rows). A transposed square matrix has that pattern in its rows; columns that were
  unpacked from I2_S in blocks of another length have it in another order.

An absent pattern proves nothing and is let pass; only one that stands clearly somewhere else is evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import TernaryConvention

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from tritium.quantize.source import Source

LARGEST_GAIN_LOSS: Final = 2.0  # powers of ten that the stored scale may be further from 1 than its inverse
CLEAR: Final = 5.0  # standard deviations of a correlation: three in ten million by chance
FEWEST_COLUMNS: Final = 64  # below, nothing is clear
ROWS_AT_ONCE: Final = 1024
I2_S_BLOCKS: Final = (64, 128)
REMEDY: Final = "Take the model from its origin again."
LINEAR_CLASS_REMEDY: Final = (
    "Correct linear_class in the quantization_config of config.json (bitlinear divides, autobitlinear "
    "multiplies), or take the checkpoint from its origin again."
)
# Which norm a layer reads behind: the first of these that the model has.
ATTENDED: Final = ("input_layernorm",)
FED: Final = ("pre_feedforward_layernorm", "post_attention_layernorm")
NORMS: Final[Mapping[str, tuple[str, ...]]] = {
    "self_attn.q_proj": ATTENDED,
    "self_attn.k_proj": ATTENDED,
    "self_attn.v_proj": ATTENDED,
    "self_attn.o_proj": ("self_attn.attn_sub_norm", "self_attn.inner_attn_ln"),
    "mlp.gate_proj": FED,
    "mlp.up_proj": FED,
    "mlp.down_proj": ("mlp.ffn_sub_norm", "mlp.ffn_layernorm"),
}
NORMS_FROM_ONE: Final = frozenset({"gemma2", "gemma3_text"})  # their norms are stored as differences from 1


@dataclass(frozen=True)
class _Energies:
    """Mean squares of a matrix [N, K] by column and by row; trits count without their scale."""

    columns: NDArray[np.float64]
    rows: NDArray[np.float64]


def check_source(source: Source) -> None:
    """Check scales and layouts of a decoder's linear layers against what the model itself shows.

    Raises:
        ValidationError: a scale looks inverted, a matrix transposed, or columns are in another block's order;
            names the layer and the evidence.
    """
    if source.config.is_encoder:
        return
    for block in source.weights.architecture.blocks:
        values: _Energies | None = None
        for name in block:
            if not _can_show_something(source, name):
                continue
            energies = _checked_energies(source, name)
            if name.endswith("self_attn.v_proj"):
                values = energies
            anchor = _anchor(source, name, values)
            if anchor is not None:
                _check_layout(name, energies, anchor, is_packed=source.is_ternary(name))


def _can_show_something(source: Source, name: str) -> bool:
    shape = source.weights.architecture.linears[name]
    is_square = shape.in_features == shape.out_features
    return source.is_ternary(name) or is_square or name.endswith("self_attn.v_proj")


def _checked_energies(source: Source, name: str) -> _Energies:
    """Return the energies of a layer; a ternary one's scale is checked on the way."""
    if not source.is_ternary(name):
        full = source.weights.prefix + name
        energies = _energies(source.dense_weights(full))
        source.forget(full)
        return energies
    weights = source.ternary_weights(name)
    if weights.scales.size > 1:  # scales of rows and groups always multiply
        return _energies(weights.dequantized())
    energies, stored = _energies(weights.levels), float(weights.scales_float32[0, 0])
    # Masters have no scale that could be inverted.
    if source.config.ternary.convention is not TernaryConvention.AUTOBITLINEAR_ONLINE and stored > 0:
        scale = 1 / stored if weights.divides else stored
        is_declared = source.config.ternary.convention is not TernaryConvention.NONE
        remedy = LINEAR_CLASS_REMEDY if is_declared else REMEDY
        _check_scale(name, energies, scale=scale, divides=weights.divides, remedy=remedy)
    return energies


def _energies(matrix: NDArray[Any]) -> _Energies:
    columns, rows = np.zeros(matrix.shape[1]), np.empty(len(matrix))
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        squares = np.square(matrix[start : start + ROWS_AT_ONCE].astype(np.float32))
        columns += squares.sum(axis=0, dtype=np.float64)
        rows[start : start + ROWS_AT_ONCE] = squares.mean(axis=1)
    return _Energies(columns / len(matrix), rows)


def _check_scale(name: str, energies: _Energies, *, scale: float, divides: bool, remedy: str) -> None:
    """Check how much larger a layer's output is than its input, on inputs without a preferred direction."""
    unscaled = math.sqrt(float(energies.columns.sum()))
    if unscaled == 0:
        return
    gain, other = unscaled * scale, unscaled / scale
    if abs(math.log10(gain)) - abs(math.log10(other)) > LARGEST_GAIN_LOSS:
        verb, opposite = ("divides", "multiplies") if divides else ("multiplies", "divides")
        raise ValidationError(
            f"The scale of {name} looks inverted: as it is stored it {verb} and makes outputs {gain:.3g} "
            f"times as large as inputs; if it {opposite}, {other:.3g} times. {remedy}",
            layer=name,
        )


def _anchor(source: Source, name: str, values: _Energies | None) -> NDArray[np.float64] | None:
    """Return what the energies of a layer's columns should follow, float64 [K]; None if it is not known."""
    block, role = ".".join(name.split(".")[:3]), name.split(".", 3)[3]
    for candidate in NORMS[role]:
        norm = f"{block}.{candidate}.weight"
        if norm in source.weights.architecture.tensors:
            one = 1 if source.config.model_type in NORMS_FROM_ONE else 0
            return np.abs(source.weights.array(norm).astype(np.float64) + one)
    if role == "self_attn.o_proj" and values is not None:
        config = source.config
        heads = values.rows.reshape(config.num_kv_heads, -1)
        return np.repeat(heads, config.num_heads // config.num_kv_heads, axis=0).reshape(-1)
    return None


def _check_layout(name: str, energies: _Energies, anchor: NDArray[np.float64], *, is_packed: bool) -> None:
    columns = energies.columns
    if len(columns) < FEWEST_COLUMNS or len(anchor) != len(columns):
        return
    stored = clearness(columns, anchor)
    readings = {}
    if len(energies.rows) == len(columns):
        readings["transposed"] = energies.rows
    if is_packed:
        readings |= dict(_reblocked(columns))
    for reading, profile in readings.items():
        found = clearness(profile, anchor)
        if found > CLEAR and found - stored > CLEAR:
            raise ValidationError(
                f"The layer {name} looks {reading}: read that way, it uses what is amplified before it "
                f"({found:.1f} standard deviations above chance); as stored it does not ({stored:.1f}). "
                "Convert the model again from its origin.",
                layer=name,
            )


def _reblocked(columns: NDArray[np.float64]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield the columns in the order they had if they were unpacked from I2_S with the wrong block."""
    if len(columns) % I2_S_BLOCKS[-1]:
        return
    order = i2_s_confusion(len(columns))
    restored = np.empty_like(columns)
    restored[order] = columns
    yield "unpacked from I2_S in blocks of 128 though it was packed in blocks of 64", restored
    yield "unpacked from I2_S in blocks of 64 though it was packed in blocks of 128", columns[order]


def i2_s_confusion(count: int) -> NDArray[np.intp]:
    """Return which weight of a row stands where when blocks of 64 are read as blocks of 128."""
    places = np.arange(count).reshape(-1, 2, 4, 16)  # block of 128, its half, the code in the byte, the byte
    return places.swapaxes(1, 2).reshape(-1)


def clearness(profile: NDArray[np.float64], anchor: NDArray[np.float64]) -> float:
    """Return the correlation of two profiles in standard deviations of chance; 0 where one is constant."""
    first, second = profile - profile.mean(), anchor - anchor.mean()
    size = math.sqrt(float(first @ first) * float(second @ second))
    if size <= np.finfo(np.float32).tiny:
        return 0.0
    correlation = min(max(float(first @ second) / size, -0.999999), 0.999999)
    return math.atanh(correlation) * math.sqrt(len(profile) - 3)
