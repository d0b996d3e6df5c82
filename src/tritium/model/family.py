"""What a model type fixes: the classes and fields its config may name, and the values it may leave out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model type; defaults are those of transformers, and a field without a safe one must be there.

    Attributes:
        classes: names of `architectures` whose mathematics this is.
        fields: fields of config.json that are read beside those that every type has.
        activations: what the feed-forward part may use; the first is the default.
        activation_fields: where the config names the activation, and perhaps names it again.
        norm_eps: the field of the norms' epsilon, and its default.
        has_tied_embeddings: whether the head is the embedding where no field says so.
        rope_theta: the base of the positions' angles; None where positions are learned.
        is_encoder: whether the model turns text into vectors and does not continue it.
        model_types: what config.json calls it; None: its own name here.
        root: what stands before the names of all tensors but the head's.
        has_own_heads: whether `head_dim` and `num_key_value_heads` have no default that follows from others.
    """

    classes: frozenset[str]
    fields: frozenset[str]
    activations: tuple[str, ...]
    norm_eps: tuple[str, float]
    rope_theta: float | None
    activation_fields: tuple[str, ...] = ("hidden_act",)
    is_encoder: bool = False
    model_types: frozenset[str] | None = None
    root: str = "model."
    has_tied_embeddings: bool = False
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
_GEMMA = frozenset(
    [
        "attention_bias",
        "hidden_activation",
        "query_pre_attn_scalar",
        "sliding_window",
        "layer_types",
        "final_logit_softcapping",
        "attn_logit_softcapping",
    ]
)

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
    "qwen3_embedding": Family(
        classes=frozenset({"Qwen3Model"}),
        fields=_DECODER | _QWEN_WINDOWS | {"attention_bias"},
        activations=("silu",),
        norm_eps=("rms_norm_eps", 1e-6),
        rope_theta=10000.0,
        is_encoder=True,
        model_types=frozenset({"qwen3"}),
        root="",
        has_own_heads=True,
    ),
    "gemma2": Family(
        classes=frozenset({"Gemma2ForCausalLM"}),
        fields=_DECODER | _GEMMA | {"sliding_window_size"},
        activations=("gelu_pytorch_tanh",),
        activation_fields=("hidden_activation", "hidden_act"),
        norm_eps=("rms_norm_eps", 1e-6),
        rope_theta=10000.0,
        has_tied_embeddings=True,
        has_own_heads=True,
    ),
    "gemma3_text": Family(
        classes=frozenset({"Gemma3ForCausalLM"}),
        fields=_DECODER
        | _GEMMA
        | {"rope_local_base_freq", "sliding_window_pattern", "_sliding_window_pattern"},
        activations=("gelu_pytorch_tanh",),
        activation_fields=("hidden_activation", "hidden_act"),
        norm_eps=("rms_norm_eps", 1e-6),
        rope_theta=1000000.0,
        has_tied_embeddings=True,
        has_own_heads=True,
    ),
    "bitnet": Family(
        classes=frozenset({"BitNetForCausalLM"}),
        fields=_DECODER | {"attention_bias"},
        activations=("relu2", "silu"),
        norm_eps=("rms_norm_eps", 1e-5),
        rope_theta=500000.0,
    ),
    # 1bitLLM's models keep their latent weights, and the model type of the code they were made from.
    "bitnet_latent": Family(
        classes=frozenset({"BitnetForCausalLM"}),
        fields=_DECODER | {"weight_bits", "input_bits"},
        activations=("silu",),
        norm_eps=("rms_norm_eps", 1e-5),
        rope_theta=10000.0,
        model_types=frozenset({"llama", "bitnet"}),
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


def find_family(model_type: object, classes: object) -> str:
    """Return the name of the family that a config's `model_type` and `architectures` name together.

    Raises:
        ValidationError: the model type is not known, or a class is not one of its.
    """
    named = [
        name for name, family in FAMILIES.items() if _is_one_of(model_type, family.model_types or {name})
    ]
    if not isinstance(model_type, str) or not named:
        known = ", ".join(name for name, family in FAMILIES.items() if family.model_types is None)
        raise ValidationError(
            f"Architecture {model_type!r} is not known; known are {known}.", field="model_type"
        )
    if not classes:
        return model_type
    if not isinstance(classes, list):
        raise ValidationError("architectures must be a list of class names.", field="architectures")
    for name in named:
        if all(_is_one_of(each, FAMILIES[name].classes) for each in classes):
            return name
    expected = sorted(each for name in named for each in FAMILIES[name].classes)
    unknown = next((each for each in classes if each not in expected), classes[0])
    raise ValidationError(
        f"Architecture {unknown!r} is not known for model type {model_type!r}; "
        f"known are {', '.join(expected)}.",
        field="architectures",
    )


def _is_one_of(value: object, known: AbstractSet[str]) -> bool:
    return isinstance(value, str) and value in known
