"""What a model type fixes: the classes and fields its config may name, and the values it may leave out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model type; defaults are those of transformers, and a field without a safe one must be there.

    Attributes:
        classes: names of `architectures` whose mathematics this is.
        fields: fields of config.json that are read beside those that every type has.
        activations: what the feed-forward part may use; the first is the default.
        norm_eps: the field of the norms' epsilon, and its default.
        rope_theta: the base of the positions' angles; None where positions are learned.
        is_encoder: whether the model turns text into vectors and does not continue it.
        has_own_heads: whether `head_dim` and `num_key_value_heads` have no default that follows from others.
    """

    classes: frozenset[str]
    fields: frozenset[str]
    activations: tuple[str, ...]
    norm_eps: tuple[str, float]
    rope_theta: float | None
    is_encoder: bool = False
    has_own_heads: bool = False


_DECODER = frozenset(
    [
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "tie_word_embeddings",
        "rope_parameters",
        "rope_theta",
        "rope_scaling",
        "partial_rotary_factor",
    ]
)
_QWEN_WINDOWS = frozenset({"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"})

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        classes=frozenset({"LlamaForCausalLM"}),
        fields=_DECODER | {"attention_bias", "mlp_bias"},
        activations=("silu", "relu2"),
        norm_eps=("rms_norm_eps", 1e-6),
        rope_theta=10000.0,
    ),
    "mistral": Family(
        classes=frozenset({"MistralForCausalLM"}),
        fields=_DECODER | {"sliding_window"},
        activations=("silu",),
        norm_eps=("rms_norm_eps", 1e-6),
        rope_theta=10000.0,
    ),
    "qwen2": Family(
        classes=frozenset({"Qwen2ForCausalLM"}),
        fields=_DECODER | _QWEN_WINDOWS,
        activations=("silu",),
        norm_eps=("rms_norm_eps", 1e-6),
        rope_theta=10000.0,
    ),
    "qwen3": Family(
        classes=frozenset({"Qwen3ForCausalLM"}),
        fields=_DECODER | _QWEN_WINDOWS | {"attention_bias"},
        activations=("silu",),
        norm_eps=("rms_norm_eps", 1e-6),
        rope_theta=10000.0,
        has_own_heads=True,
    ),
    "bitnet": Family(
        classes=frozenset({"BitNetForCausalLM"}),
        fields=_DECODER | {"attention_bias"},
        activations=("relu2", "silu"),
        norm_eps=("rms_norm_eps", 1e-5),
        rope_theta=500000.0,
    ),
    "bert": Family(
        classes=frozenset({"BertModel", "BertForMaskedLM", "BertForPreTraining"}),
        fields=frozenset({"layer_norm_eps", "type_vocab_size"}),
        activations=("gelu",),
        norm_eps=("layer_norm_eps", 1e-12),
        rope_theta=None,
        is_encoder=True,
    ),
}
