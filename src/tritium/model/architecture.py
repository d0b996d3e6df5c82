"""What tensors an architecture has: names and shapes, block by block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tritium.errors import ValidationError
from tritium.kernels.measure import Product
from tritium.model.family import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tritium.model.config import ModelConfig


@dataclass(frozen=True)
class LinearShape:
    """The shape of one linear layer that can be ternary."""

    out_features: int
    in_features: int
    has_bias: bool = False


@dataclass(frozen=True)
class Architecture:
    """The linear layers of each block, in the order of the forward pass, and every other tensor.

    `tensors` are needed (by name, with shape); `tables` are those of them that may be coded matrices: the
    embedding of tokens and the head. `optional` may be there and are not read; `prefixes` are
    what a checkpoint may put before every name.
    """

    blocks: tuple[Mapping[str, LinearShape], ...]
    tensors: Mapping[str, tuple[int, ...]]
    tables: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ("",)

    @property
    def linears(self) -> dict[str, LinearShape]:
        """All linear layers that can be ternary, in the order of the forward pass."""
        return {name: shape for block in self.blocks for name, shape in block.items()}


def architecture_for(config: ModelConfig) -> Architecture:
    """Return the tensors that a model with this config has."""
    if config.model_type not in _BUILDERS:
        raise ValidationError(f"Architecture {config.model_type!r} is not known.", field="model_type")
    return _BUILDERS[config.model_type](config)


def largest_product(architecture: Architecture) -> Product:
    """Return the ternary product that the device of such a model is chosen by."""
    linears = architecture.linears.values()
    return Product.of_model((shape.out_features, shape.in_features) for shape in linears)


def _llama(config: ModelConfig) -> Architecture:
    hidden, vocabulary = config.hidden_size, config.vocab_size
    root = FAMILIES[config.model_type].root
    tensors: dict[str, tuple[int, ...]] = {f"{root}embed_tokens.weight": (vocabulary, hidden)}
    for index in range(config.num_layers):
        tensors[f"{root}layers.{index}.input_layernorm.weight"] = (hidden,)
        tensors[f"{root}layers.{index}.post_attention_layernorm.weight"] = (hidden,)
    tensors[f"{root}norm.weight"] = (hidden,)
    tables = [f"{root}embed_tokens.weight"]
    if not config.tie_word_embeddings:
        tables.append("lm_head.weight")
        tensors["lm_head.weight"] = (vocabulary, hidden)
    # Old checkpoints carry the rope frequencies; we compute them.
    optional = {f"{root}layers.{index}.self_attn.rotary_emb.inv_freq" for index in range(config.num_layers)}
    return Architecture(
        blocks=tuple(_decoder_linears(config, f"{root}layers.{index}") for index in range(config.num_layers)),
        tensors=tensors,
        tables=tuple(tables),
        optional=frozenset(optional),
    )


def _decoder_linears(config: ModelConfig, block: str) -> dict[str, LinearShape]:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention, mlp = config.has_attention_bias, config.has_mlp_bias
    return {
        f"{block}.self_attn.q_proj": LinearShape(queries, hidden, attention),
        f"{block}.self_attn.k_proj": LinearShape(keys, hidden, attention),
        f"{block}.self_attn.v_proj": LinearShape(keys, hidden, attention),
        f"{block}.self_attn.o_proj": LinearShape(hidden, queries, config.has_attention_output_bias),
        f"{block}.mlp.gate_proj": LinearShape(inner, hidden, mlp),
        f"{block}.mlp.up_proj": LinearShape(inner, hidden, mlp),
        f"{block}.mlp.down_proj": LinearShape(hidden, inner, mlp),
    }


def _bitnet(config: ModelConfig) -> Architecture:
    norms = {"self_attn.attn_sub_norm": config.hidden_size, "mlp.ffn_sub_norm": config.intermediate_size}
    return _with_norms(_llama(config), config, norms)


def _bitnet_latent(config: ModelConfig) -> Architecture:
    norms = {"self_attn.inner_attn_ln": config.hidden_size, "mlp.ffn_layernorm": config.intermediate_size}
    return _with_norms(_llama(config), config, norms)


def _qwen3(config: ModelConfig) -> Architecture:
    norms = {"self_attn.q_norm": config.head_dim, "self_attn.k_norm": config.head_dim}
    return _with_norms(_llama(config), config, norms)


def _qwen3_embedding(config: ModelConfig) -> Architecture:
    qwen3 = replace(_qwen3(config), prefixes=("", "model."))
    if not config.has_projection_norms:
        return qwen3
    norms = {f"{name}.norm.weight": (shape.in_features,) for name, shape in qwen3.linears.items()}
    return replace(qwen3, tensors={**qwen3.tensors, **norms})


def _gemma2(config: ModelConfig) -> Architecture:
    norms = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    return _with_norms(_llama(config), config, dict.fromkeys(norms, config.hidden_size))


def _gemma3_text(config: ModelConfig) -> Architecture:
    norms = dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), config.head_dim)
    return _with_norms(_gemma2(config), config, norms)


def _with_norms(decoder: Architecture, config: ModelConfig, norms: Mapping[str, int]) -> Architecture:
    """Add norms of these widths to every block."""
    added = {
        f"{FAMILIES[config.model_type].root}layers.{index}.{name}.weight": (width,)
        for index in range(config.num_layers)
        for name, width in norms.items()
    }
    return replace(decoder, tensors={**decoder.tensors, **added})


def _bert(config: ModelConfig) -> Architecture:
    hidden = config.hidden_size
    tensors: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, hidden),
        "embeddings.position_embeddings.weight": (config.max_positions, hidden),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, hidden),
    }
    norms = ["embeddings.LayerNorm"]
    for index in range(config.num_layers):
        norms += [f"encoder.layer.{index}.{part}.LayerNorm" for part in ("attention.output", "output")]
    for norm in norms:
        tensors[f"{norm}.weight"] = tensors[f"{norm}.bias"] = (hidden,)
    return Architecture(
        blocks=tuple(_bert_linears(config, f"encoder.layer.{index}") for index in range(config.num_layers)),
        tensors=tensors,
        tables=("embeddings.word_embeddings.weight",),
        # Positions are counted; pooler and heads serve other tasks than embedding.
        optional=frozenset({"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias", "cls."}),
        prefixes=("", "bert."),
    )


def _bert_linears(config: ModelConfig, block: str) -> dict[str, LinearShape]:
    hidden, inner = config.hidden_size, config.intermediate_size
    square = LinearShape(hidden, hidden, has_bias=True)
    return {
        f"{block}.attention.self.query": square,
        f"{block}.attention.self.key": square,
        f"{block}.attention.self.value": square,
        f"{block}.attention.output.dense": square,
        f"{block}.intermediate.dense": LinearShape(inner, hidden, has_bias=True),
        f"{block}.output.dense": LinearShape(hidden, inner, has_bias=True),
    }


_BUILDERS: Mapping[str, Callable[[ModelConfig], Architecture]] = {
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _qwen3,
    "qwen3_embedding": _qwen3_embedding,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3_text,
    "bitnet": _bitnet,
    "bitnet_latent": _bitnet_latent,
    "bert": _bert,
}
