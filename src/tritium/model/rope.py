"""Rotary position parameters: read from a config in both spellings, turned into inverse frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping


class RopeKind(StrEnum):
    """The scalings whose formula this library implements; every other one is refused by name."""

    DEFAULT = "default"
    LINEAR = "linear"
    LLAMA3 = "llama3"


_ALLOWED_KEYS = {
    RopeKind.DEFAULT: frozenset[str](),
    RopeKind.LINEAR: frozenset({"factor"}),
    RopeKind.LLAMA3: frozenset(
        {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
    ),
}
# Far beyond what models use, and far from where float32 overflows.
_LARGEST_THETA = 1e12
_SMALLEST_FACTOR, _LARGEST_FACTOR = 1e-3, 1e6
_LARGEST_POSITION = 1 << 24
_LAYER_KINDS = ("full_attention", "sliding_attention")
_LOCAL_THETA = 10000.0
_COMMON_KEYS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})


@dataclass(frozen=True)
class RopeParameters:
    """How positions become angles: base, and how the frequencies are scaled for longer contexts."""

    theta: float
    kind: RopeKind = RopeKind.DEFAULT
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_max_positions: int = 0


def parse_rope(config: Mapping[str, Any], *, default_theta: float, max_positions: int) -> RopeParameters:
    """Read `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (transformers 4).

    Raises:
        ValidationError: an unknown rope type, an unknown key, a value out of range, or two spellings that say
            different things.
    """
    spellings = [(name, _object(config, name)) for name in ("rope_parameters", "rope_scaling")]
    given = [(name, values) for name, values in spellings if values is not None]
    parsed = [
        _parse(values, config, default_theta=default_theta, max_positions=max_positions)
        for _, values in given or [("", {})]
    ]
    if any(other != parsed[0] for other in parsed):
        raise ValidationError(
            "rope_scaling and rope_parameters say different things: remove the one that is wrong.",
            field="rope_scaling",
        )
    return parsed[0]


def parse_ropes(
    config: Mapping[str, Any], *, default_theta: float, max_positions: int
) -> tuple[RopeParameters, RopeParameters]:
    """Read the two ropes of Gemma 3: that of layers that see everything, and that of layers that slide.

    transformers 5 has both under `rope_parameters`; before, the second was `rope_local_base_freq`.

    Raises:
        ValidationError: as in parse_rope, or `rope_parameters` holds something else.
    """
    nested = _object(config, "rope_parameters") or {}
    unknown = sorted(nested.keys() - set(_LAYER_KINDS))
    if unknown:
        raise ValidationError(
            f"rope_parameters must hold {' and '.join(_LAYER_KINDS)}, not {unknown[0]!r}.",
            field="rope_parameters",
        )
    full, sliding = (nested.get(kind) for kind in _LAYER_KINDS)
    shared = {key: config[key] for key in ("partial_rotary_factor",) if key in config}
    everywhere = {key: config[key] for key in ("rope_theta", "rope_scaling") if key in config}
    local = {"rope_theta": config.get("rope_local_base_freq")}
    return (
        parse_rope(
            {**shared, **everywhere, "rope_parameters": full},
            default_theta=default_theta,
            max_positions=max_positions,
        ),
        parse_rope(
            {**shared, **local, "rope_parameters": sliding},
            default_theta=_LOCAL_THETA,
            max_positions=max_positions,
        ),
    )


def _parse(
    values: Mapping[str, Any], config: Mapping[str, Any], *, default_theta: float, max_positions: int
) -> RopeParameters:
    kind = _rope_kind(values)
    unknown = sorted(set(values) - _COMMON_KEYS - _ALLOWED_KEYS[kind])
    if unknown:
        raise ValidationError(
            f"Rope type {kind.value!r} has unknown fields: {', '.join(unknown)}; they may change the result.",
            field=unknown[0],
        )
    partial = _agreed(values, config, "partial_rotary_factor", default=1)
    if partial not in (1, 1.0):
        raise ValidationError(
            f"partial_rotary_factor {partial!r} is not supported.", field="partial_rotary_factor"
        )
    theta = _agreed(values, config, "rope_theta", default=default_theta)
    original = values.get("original_max_position_embeddings", max_positions)
    return _checked(
        RopeParameters(
            theta=_between(theta, name="rope_theta", low=1.0, high=_LARGEST_THETA),
            kind=kind,
            factor=_factor(_required(values, "factor", kind), name="factor") if _ALLOWED_KEYS[kind] else 1.0,
            low_frequency_factor=_llama3(values, "low_freq_factor", kind, default=1.0),
            high_frequency_factor=_llama3(values, "high_freq_factor", kind, default=4.0),
            original_max_positions=int(
                _between(original, name="original_max_position_embeddings", low=1, high=_LARGEST_POSITION)
            ),
        )
    )


def inverse_frequencies(rope: RopeParameters, *, head_dim: int) -> npt.NDArray[np.float32]:
    """Return the angle per position of each pair of dimensions, float32 [head_dim / 2], in radians."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies: npt.NDArray[np.float32] = np.reciprocal(
        np.power(np.float64(rope.theta), exponents).astype(np.float32)
    )
    if rope.kind is RopeKind.LINEAR:
        frequencies /= np.float32(rope.factor)
    if rope.kind is RopeKind.LLAMA3:
        return _llama3_frequencies(rope, frequencies)
    return frequencies


def _llama3_frequencies(
    rope: RopeParameters, frequencies: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Slow long waves down by `factor`, keep short waves, and blend between the two cut-offs."""
    longest = rope.original_max_positions / rope.low_frequency_factor
    shortest = rope.original_max_positions / rope.high_frequency_factor
    wavelengths = np.float32(2 * math.pi) / frequencies
    slowed = np.where(wavelengths > longest, frequencies / np.float32(rope.factor), frequencies)
    smooth = (
        np.float32(rope.original_max_positions) / wavelengths - np.float32(rope.low_frequency_factor)
    ) / (np.float32(rope.high_frequency_factor - rope.low_frequency_factor))
    blended = (np.float32(1.0) - smooth) * slowed / np.float32(rope.factor) + smooth * slowed
    is_between = (wavelengths >= shortest) & (wavelengths <= longest)
    return np.where(is_between, blended, slowed).astype(np.float32)


def _object(config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    values = config.get(name)
    if values is not None and not isinstance(values, dict):
        raise ValidationError(f"{name} must be an object, not {type(values).__name__}.", field=name)
    return values


def _agreed(values: Mapping[str, Any], config: Mapping[str, Any], name: str, *, default: float) -> Any:
    """Return a value that may stand in the rope's own object, beside it, or in both alike."""
    found = [value for value in (values.get(name), config.get(name)) if value is not None]
    if any(value != found[0] for value in found):
        raise ValidationError(
            f"{name} is {found[0]!r} in one place and {found[1]!r} in another: remove the one that is wrong.",
            field=name,
        )
    return found[0] if found else default


def _rope_kind(values: Mapping[str, Any]) -> RopeKind:
    name = values.get("rope_type", values.get("type", RopeKind.DEFAULT.value))
    try:
        return RopeKind(name)
    except ValueError:
        known = ", ".join(kind.value for kind in RopeKind)
        raise ValidationError(
            f"Rope type {name!r} is not known; known are {known}.", field="rope_type"
        ) from None


def _required(values: Mapping[str, Any], name: str, kind: RopeKind) -> Any:
    if name not in values:
        raise ValidationError(f"Rope type {kind.value!r} needs the field {name}.", field=name)
    return values[name]


def _llama3(values: Mapping[str, Any], name: str, kind: RopeKind, *, default: float) -> float:
    if kind is not RopeKind.LLAMA3:
        return default
    return _factor(_required(values, name, kind), name=name)


def _factor(value: Any, *, name: str) -> float:
    return _between(value, name=name, low=_SMALLEST_FACTOR, high=_LARGEST_FACTOR)


def _between(value: Any, *, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValidationError(
            f"{name} must be a number from {low:g} to {high:g}, not {str(value)[:40]!r}.", field=name
        )
    return float(value)


def _checked(rope: RopeParameters) -> RopeParameters:
    if rope.kind is RopeKind.LLAMA3 and rope.high_frequency_factor <= rope.low_frequency_factor:
        raise ValidationError(
            "high_freq_factor must be larger than low_freq_factor.", field="high_freq_factor"
        )
    return rope
