"""What a model multiplies by, and where it bounds: scores, embeddings, logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SMALLEST, _LARGEST = 1e-6, 1e6
_ATTENTION_CAP, _LOGIT_CAP = "attn_logit_softcapping", "final_logit_softcapping"
_GEMMA2_ATTENTION_CAP, _GEMMA2_LOGIT_CAP = 50.0, 30.0  # what a config without the field means
_DEFAULT_QUERY_SCALAR = 256


@dataclass(frozen=True)
class Scaling:
    """The factors of attention scores and embeddings, and what bounds scores and logits (None: nothing)."""

    attention: float
    embedding: float = 1.0
    attention_cap: float | None = None
    logit_cap: float | None = None


def parse_scaling(config: Mapping[str, Any], *, model_type: str, hidden_size: int, head_dim: int) -> Scaling:
    """Return how a model of this type scales.

    Raises:
        ValidationError: a value out of range, a cap that the type does not apply, or an unknown dtype.
    """
    if model_type not in {"gemma2", "gemma3_text"}:
        return Scaling(attention=head_dim**-0.5)
    is_bounded = model_type == "gemma2"
    cap = config.get(_ATTENTION_CAP, _GEMMA2_ATTENTION_CAP if is_bounded else None)
    if cap is not None and not is_bounded:
        raise ValidationError(
            f"{_ATTENTION_CAP}={str(cap)[:40]} is not known for {model_type}: transformers has the field and "
            "does not apply it, so what the model was trained with cannot be told.",
            field=_ATTENTION_CAP,
        )
    logit_cap = config.get(_LOGIT_CAP, _GEMMA2_LOGIT_CAP if is_bounded else None)
    scalar = config.get("query_pre_attn_scalar", _DEFAULT_QUERY_SCALAR)
    return Scaling(
        attention=_positive(scalar, name="query_pre_attn_scalar") ** -0.5,
        embedding=_rounded(math.sqrt(hidden_size), config),
        attention_cap=None if cap is None else _positive(cap, name=_ATTENTION_CAP),
        logit_cap=None if logit_cap is None else _positive(logit_cap, name=_LOGIT_CAP),
    )


def _rounded(value: float, config: Mapping[str, Any]) -> float:
    """Round as the model does: its embeddings are multiplied by a number of their own dtype."""
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    if name == "bfloat16":
        bits = np.float32(value).view(np.uint32)
        even = (bits >> np.uint32(16)) & np.uint32(1)
        kept = (bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)
        return float(kept.view(np.float32))
    if name in {"float32", "float16"}:
        return float(np.dtype(name).type(value))
    raise ValidationError(
        f"dtype {name!r} is not known; known are float32, float16 and bfloat16.", field="dtype"
    )


def _positive(value: Any, *, name: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not _SMALLEST <= value <= _LARGEST:
        raise ValidationError(
            f"{name} must be a number from {_SMALLEST:g} to {_LARGEST:g}, not {str(value)[:40]!r}.",
            field=name,
        )
    return float(value)
