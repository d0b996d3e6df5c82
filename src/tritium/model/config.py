"""A model's config.json as checked facts: what is not known is refused by name, never guessed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import TernaryConvention, detect_ternary_convention, modules_kept_dense
from tritium.model.fields import refuse_unknown_fields
from tritium.model.rope import RopeParameters, parse_rope

if TYPE_CHECKING:
    from collections.abc import Mapping

# model_type -> the classes of `architectures` whose mathematics it names
ARCHITECTURES: Mapping[str, frozenset[str]] = {
    "llama": frozenset({"LlamaForCausalLM"}),
    "bitnet": frozenset({"BitNetForCausalLM"}),
    "bert": frozenset({"BertModel", "BertForMaskedLM", "BertForPreTraining"}),
}
_ACTIVATIONS: Mapping[str, frozenset[str]] = {
    "llama": frozenset({"silu", "relu2"}),
    "bitnet": frozenset({"silu", "relu2"}),
    "bert": frozenset({"gelu"}),
}
_DEFAULT_THETA: Mapping[str, float] = {"llama": 10000.0, "bitnet": 500000.0}

_LARGEST = 1 << 24  # of any size in a config: far above every real model, far below what overflows
_MOST_LAYERS = 1 << 12  # each has names of its own, which are listed before any is looked for


@dataclass(frozen=True)
class TernarySettings:
    """How a native ternary checkpoint stores its linear layers."""

    convention: TernaryConvention = TernaryConvention.NONE
    modules_kept_dense: tuple[str, ...] = ("lm_head",)

    def converts(self, name: str) -> bool:
        """Tell whether the linear layer of this name is ternary in the checkpoint."""
        if self.convention is TernaryConvention.NONE:
            return False
        return not any(_names_module(pattern, name) for pattern in self.modules_kept_dense)


@dataclass(frozen=True)
class ModelConfig:
    """The shape and the mathematics of one model; sizes in elements."""

    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    activation: str
    tie_word_embeddings: bool
    has_attention_bias: bool
    has_mlp_bias: bool
    rope: RopeParameters | None
    type_vocab_size: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    ternary: TernarySettings

    @property
    def is_encoder(self) -> bool:
        """Tell whether the model turns text into vectors (and does not continue it)."""
        return self.model_type == "bert"


def parse_config(config: Mapping[str, Any]) -> ModelConfig:
    """Check a config.json and return its facts.

    Raises:
        ValidationError: an unknown architecture, a field that may change the mathematics and is not known, a
            missing field, or a value out of range; the message names the field.
    """
    model_type = _model_type(config)
    refuse_unknown_fields(config, model_type=model_type)
    is_encoder = model_type == "bert"
    hidden = _size(config, "hidden_size")
    heads = _size(config, "num_attention_heads")
    max_positions = _size(config, "max_position_embeddings")
    rope = None
    if not is_encoder:
        rope = parse_rope(config, default_theta=_DEFAULT_THETA[model_type], max_positions=max_positions)
    return _checked(
        ModelConfig(
            model_type=model_type,
            hidden_size=hidden,
            num_layers=_size(config, "num_hidden_layers", largest=_MOST_LAYERS),
            num_heads=heads,
            num_kv_heads=_size(config, "num_key_value_heads", default=heads),
            head_dim=_size(config, "head_dim", default=max(1, hidden // heads)),
            intermediate_size=_size(config, "intermediate_size"),
            vocab_size=_size(config, "vocab_size"),
            max_positions=max_positions,
            norm_eps=_epsilon(config, model_type=model_type),
            activation=_activation(config, model_type=model_type),
            tie_word_embeddings=is_encoder or _claim(config, "tie_word_embeddings"),
            has_attention_bias=is_encoder or _claim(config, "attention_bias"),
            has_mlp_bias=is_encoder or _claim(config, "mlp_bias"),
            rope=rope,
            type_vocab_size=_size(config, "type_vocab_size", default=2) if is_encoder else 0,
            bos_token_id=_token_id(config.get("bos_token_id"), name="bos_token_id"),
            eos_token_ids=parse_token_ids(config.get("eos_token_id"), name="eos_token_id"),
            ternary=_ternary(config),
        )
    )


def parse_token_ids(value: Any, *, name: str) -> tuple[int, ...]:
    """Read a field that holds one token id, a list of them, or nothing."""
    values = value if isinstance(value, list) else [value]
    return tuple(number for item in values if (number := _token_id(item, name=name)) is not None)


def _model_type(config: Mapping[str, Any]) -> str:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise ValidationError(
            f"Architecture {model_type!r} is not known; known are {', '.join(ARCHITECTURES)}.",
            field="model_type",
        )
    names = config.get("architectures") or []
    known = ARCHITECTURES[model_type]
    if not isinstance(names, list):
        raise ValidationError("architectures must be a list of class names.", field="architectures")
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise ValidationError(
                f"Architecture {name!r} is not known for model type {model_type!r}; "
                f"known are {', '.join(sorted(known))}.",
                field="architectures",
            )
    return model_type


def _size(
    config: Mapping[str, Any], name: str, *, default: int | None = None, largest: int = _LARGEST
) -> int:
    value = config.get(name)
    if value is None:
        if default is None:
            raise ValidationError(f"The config has no field {name}.", field=name)
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise ValidationError(
            f"{name} must be a whole number from 1 to {largest}, not {value!r}.", field=name
        )
    return value


def _claim(config: Mapping[str, Any], name: str) -> bool:
    value = config.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ValidationError(f"{name} must be true or false, not {value!r}.", field=name)
    return value


def _epsilon(config: Mapping[str, Any], *, model_type: str) -> float:
    name, default = {
        "llama": ("rms_norm_eps", 1e-6),
        "bitnet": ("rms_norm_eps", 1e-5),
        "bert": ("layer_norm_eps", 1e-12),
    }[model_type]
    return _small_positive(config.get(name, default), name=name)


def _small_positive(value: Any, *, name: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (math.isfinite(value) and 0 < value < 1):
        raise ValidationError(f"{name} must be between 0 and 1, not {value!r}.", field=name)
    return float(value)


def _activation(config: Mapping[str, Any], *, model_type: str) -> str:
    default = {"llama": "silu", "bitnet": "relu2", "bert": "gelu"}[model_type]
    name = config.get("hidden_act", default)
    if not isinstance(name, str) or name not in _ACTIVATIONS[model_type]:
        raise ValidationError(
            f"Activation {name!r} is not known for model type {model_type!r}; "
            f"known are {', '.join(sorted(_ACTIVATIONS[model_type]))}.",
            field="hidden_act",
        )
    return name


def _token_id(value: Any, *, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
        raise ValidationError(f"{name} must be a token id, not {value!r}.", field=name)
    return value


def _ternary(config: Mapping[str, Any]) -> TernarySettings:
    return TernarySettings(
        convention=detect_ternary_convention(config), modules_kept_dense=modules_kept_dense(config)
    )


def _names_module(pattern: str, name: str) -> bool:
    return name == pattern or name.endswith("." + pattern) or f".{pattern}." in f".{name}."


def _checked(config: ModelConfig) -> ModelConfig:
    if config.num_heads % config.num_kv_heads:
        raise ValidationError(
            f"num_attention_heads ({config.num_heads}) is not a multiple of num_key_value_heads "
            f"({config.num_kv_heads}).",
            field="num_key_value_heads",
        )
    if config.rope is not None and config.head_dim % 2:
        raise ValidationError(f"head_dim must be even for rope, not {config.head_dim}.", field="head_dim")
    if config.model_type in {"bert", "bitnet"} and config.num_heads * config.head_dim != config.hidden_size:
        raise ValidationError(
            f"hidden_size ({config.hidden_size}) must be num_attention_heads ({config.num_heads}) times "
            f"the head size ({config.head_dim}).",
            field="hidden_size",
        )
    return config
