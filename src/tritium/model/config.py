"""A model's config.json as checked facts: what is not known is refused by name, never guessed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import TernaryConvention, detect_ternary_convention, modules_kept_dense
from tritium.model.family import FAMILIES, Family, find_family
from tritium.model.fields import refuse_unknown_fields
from tritium.model.rope import RopeParameters, parse_rope, parse_ropes
from tritium.model.scaling import Scaling, parse_scaling
from tritium.model.windows import Windows, parse_windows

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_PROJECTION_NORM = "_proj.norm.weight"  # of a BitNet embedding model; its config has no field that says so
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
    has_attention_output_bias: bool
    has_mlp_bias: bool
    has_projection_norms: bool
    rope: RopeParameters | None
    local_rope: RopeParameters | None  # of layers with a window, where they have their own
    scaling: Scaling
    windows: Windows
    type_vocab_size: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    ternary: TernarySettings

    @property
    def is_encoder(self) -> bool:
        """Tell whether the model turns text into vectors (and does not continue it)."""
        return FAMILIES[self.model_type].is_encoder


def parse_config(config: Mapping[str, Any], *, tensors: Collection[str] = ()) -> ModelConfig:
    """Check a config.json and return its facts.

    Args:
        config: the parsed file.
        tensors: names of the checkpoint's tensors, where they say what no field does.

    Raises:
        ValidationError: an unknown architecture, a field that may change the mathematics and is not known, a
            missing field, or a value out of range; the message names the field.
    """
    model_type = find_family(config.get("model_type"), config.get("architectures"))
    family = FAMILIES[model_type]
    refuse_unknown_fields(config, model_type=model_type)
    is_bert = model_type == "bert"
    hidden = _size(config, "hidden_size")
    num_layers = _size(config, "num_hidden_layers", largest=_MOST_LAYERS)
    heads, kv_heads, head_dim = _heads(config, family)
    positions = _size(config, "max_position_embeddings")
    rope, local_rope = _ropes(config, family, model_type=model_type, max_positions=positions)
    windows = parse_windows(config, model_type=model_type, num_layers=num_layers)
    has_bias = is_bert or model_type == "qwen2" or _claim(config, "attention_bias")
    has_norms = model_type == "qwen3_embedding" and any(name.endswith(_PROJECTION_NORM) for name in tensors)
    return _checked(
        ModelConfig(
            model_type=model_type,
            hidden_size=hidden,
            num_layers=num_layers,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate_size=_size(config, "intermediate_size"),
            vocab_size=_size(config, "vocab_size"),
            max_positions=positions,
            norm_eps=_small_positive(config, *family.norm_eps),
            activation=_activation(config, family, model_type=model_type),
            tie_word_embeddings=family.is_encoder
            or _claim(config, "tie_word_embeddings", default=family.has_tied_embeddings),
            has_attention_bias=has_bias,
            has_attention_output_bias=has_bias and model_type != "qwen2",
            has_mlp_bias=is_bert or _claim(config, "mlp_bias"),
            has_projection_norms=has_norms,
            rope=rope,
            local_rope=local_rope,
            scaling=parse_scaling(config, model_type=model_type, hidden_size=hidden, head_dim=head_dim),
            windows=windows,
            type_vocab_size=_size(config, "type_vocab_size", default=2) if is_bert else 0,
            bos_token_id=_token_id(config.get("bos_token_id"), name="bos_token_id"),
            eos_token_ids=parse_token_ids(config.get("eos_token_id"), name="eos_token_id"),
            ternary=_ternary(config, has_projection_norms=has_norms),
        )
    )


def parse_token_ids(value: Any, *, name: str) -> tuple[int, ...]:
    """Read a field that holds one token id, a list of them, or nothing."""
    values = value if isinstance(value, list) else [value]
    return tuple(number for item in values if (number := _token_id(item, name=name)) is not None)


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


def _claim(config: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ValidationError(f"{name} must be true or false, not {value!r}.", field=name)
    return value


def _heads(config: Mapping[str, Any], family: Family) -> tuple[int, int, int]:
    """Return the heads of queries, those of keys and values, and the size of one."""
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    kv_heads, head_dim = (None, None) if family.has_own_heads else (heads, max(1, hidden // heads))
    return (
        heads,
        _size(config, "num_key_value_heads", default=kv_heads),
        _size(config, "head_dim", default=head_dim),
    )


def _small_positive(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (math.isfinite(value) and 0 < value < 1):
        raise ValidationError(f"{name} must be between 0 and 1, not {value!r}.", field=name)
    return float(value)


def _ropes(
    config: Mapping[str, Any], family: Family, *, model_type: str, max_positions: int
) -> tuple[RopeParameters | None, RopeParameters | None]:
    if family.rope_theta is None:
        return None, None
    if model_type == "gemma3_text":
        return parse_ropes(config, default_theta=family.rope_theta, max_positions=max_positions)
    return parse_rope(config, default_theta=family.rope_theta, max_positions=max_positions), None


def _activation(config: Mapping[str, Any], family: Family, *, model_type: str) -> str:
    names = {field: config[field] for field in family.activation_fields if config.get(field) is not None}
    for field, name in names.items():
        if not isinstance(name, str) or name not in family.activations:
            raise ValidationError(
                f"Activation {name!r} is not known for model type {model_type!r}; "
                f"known are {', '.join(sorted(family.activations))}.",
                field=field,
            )
    return next(iter(names.values()), family.activations[0])


def _token_id(value: Any, *, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
        raise ValidationError(f"{name} must be a token id, not {value!r}.", field=name)
    return value


def _ternary(config: Mapping[str, Any], *, has_projection_norms: bool) -> TernarySettings:
    convention = detect_ternary_convention(config)
    if has_projection_norms:
        if convention is not TernaryConvention.NONE:
            raise ValidationError(
                "Projections with norms of their own are known with full-precision masters only, "
                "not with a quantization_config.",
                field="quantization_config",
            )
        convention = TernaryConvention.AUTOBITLINEAR_ONLINE
    return TernarySettings(convention=convention, modules_kept_dense=modules_kept_dense(config))


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
    if (
        config.model_type in {"bert", "bitnet", "bitnet_latent"}
        and config.num_heads * config.head_dim != config.hidden_size
    ):
        raise ValidationError(
            f"hidden_size ({config.hidden_size}) must be num_attention_heads ({config.num_heads}) times "
            f"the head size ({config.head_dim}).",
            field="hidden_size",
        )
    return config
