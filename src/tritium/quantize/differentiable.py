"""Models as torch differentiates them: the same mathematics as `tritium.model`, for training only.

Texts of several lengths are padded only where tokens look at one another; all else is done for tokens alone,
[N, ...] in the order of the texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn import functional

from tritium.errors import ValidationError
from tritium.model.decoder import layer_frequencies

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium.model.config import ModelConfig
    from tritium.model.scaling import Scaling
    from tritium.model.weights import CheckpointWeights

    Apply = Callable[[str, torch.Tensor], torch.Tensor]  # a linear layer by name

GEMMA = ("gemma2", "gemma3_text")


class Differentiable(Protocol):
    """A model cut into what is before, in and after its blocks; `is_token` [B, T] has N tokens."""

    def embed(self, token_ids: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """Return what enters the first block, [N, hidden]."""

    def block(self, index: int, hidden: torch.Tensor, is_token: torch.Tensor, apply: Apply) -> torch.Tensor:
        """Run one block on [N, hidden]; `apply` runs its linear layers by name."""

    def output(self, hidden: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """Return logits [N, vocabulary] or unit vectors [B, hidden]."""


class Decoder:
    """llama and those that add biases, norms, windows and caps to it."""

    def __init__(self, config: ModelConfig, weights: CheckpointWeights) -> None:
        self._config = config
        self._table = _tensor(weights, "model.embed_tokens.weight")
        self._head = self._table if config.tie_word_embeddings else _tensor(weights, "lm_head.weight")
        offset = 1.0 if config.model_type in GEMMA else 0.0  # its norms are stored as the difference from 1
        self._norms = {
            name: _tensor(weights, name) + offset for name in weights.architecture.tensors if "norm" in name
        }
        self._frequencies = [torch.from_numpy(each) for each in layer_frequencies(config)]

    def embed(self, token_ids: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """Look the tokens up: [N, hidden]."""
        return functional.embedding(token_ids[is_token], self._table) * self._config.scaling.embedding

    def block(self, index: int, hidden: torch.Tensor, is_token: torch.Tensor, apply: Apply) -> torch.Tensor:
        """Run one block on [N, hidden]; padding stands at the end, where causal attention never looks."""
        name = f"model.layers.{index}"
        x = self._normalised(hidden, f"{name}.input_layernorm")
        parts = (_padded(apply(f"{name}.self_attn.{part}_proj", x), is_token) for part in "qkv")
        attended = _tokens(self._attended(index, *parts), is_token)
        attended = apply(f"{name}.self_attn.o_proj", attended)
        between, after = "post_attention_layernorm", None
        if self._config.model_type in GEMMA:
            attended = self._normalised(attended, f"{name}.post_attention_layernorm")
            between, after = "pre_feedforward_layernorm", f"{name}.post_feedforward_layernorm"
        hidden = hidden + attended
        x = self._normalised(hidden, f"{name}.{between}")
        inner = self._activated(apply(f"{name}.mlp.gate_proj", x)) * apply(f"{name}.mlp.up_proj", x)
        fed = apply(f"{name}.mlp.down_proj", inner)
        return hidden + (fed if after is None else self._normalised(fed, after))

    def output(self, hidden: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """Return logits [N, vocabulary]."""
        del is_token
        logits = functional.linear(self._normalised(hidden, "model.norm"), self._head)
        cap = self._config.scaling.logit_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _attended(self, index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Let the tokens of [B, T, heads x dim] look at those before them, as far as the layer's window."""
        config = self._config
        queries, keys = self._heads(q, config.num_heads), self._heads(k, config.num_kv_heads)
        norms = [f"model.layers.{index}.self_attn.{part}_norm" for part in "qk"]
        if f"{norms[0]}.weight" in self._norms:
            queries, keys = self._normalised(queries, norms[0]), self._normalised(keys, norms[1])
        mixed = _causal(
            self._turned(queries, index),
            self._turned(keys, index),
            self._heads(v, config.num_kv_heads),
            scaling=config.scaling,
            window=config.windows[index],
        )
        return mixed.transpose(1, 2).flatten(2)

    def _activated(self, x: torch.Tensor) -> torch.Tensor:
        return (
            functional.silu(x)
            if self._config.activation == "silu"
            else functional.gelu(x, approximate="tanh")
        )

    def _normalised(self, x: torch.Tensor, norm: str) -> torch.Tensor:
        weight = self._norms[f"{norm}.weight"]
        return functional.rms_norm(x.float(), (x.shape[-1],), weight, self._config.norm_eps)

    def _heads(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        return x.view(*x.shape[:2], heads, self._config.head_dim).transpose(1, 2)

    def _turned(self, x: torch.Tensor, index: int) -> torch.Tensor:
        angles = torch.arange(x.shape[2])[:, None] * self._frequencies[index]
        cosines, sines = (torch.cat([each, each], dim=-1) for each in (angles.cos(), angles.sin()))
        first, second = x.chunk(2, dim=-1)
        return x * cosines + torch.cat([-second, first], dim=-1) * sines


class Encoder:
    """bert with the mean of its last hidden states."""

    def __init__(self, config: ModelConfig, weights: CheckpointWeights) -> None:
        self._config = config
        self._words = _tensor(weights, "embeddings.word_embeddings.weight")
        types = _tensor(weights, "embeddings.token_type_embeddings.weight")
        self._places = _tensor(weights, "embeddings.position_embeddings.weight") + types[0]
        self._norms = {
            name: (_tensor(weights, f"{name}.weight"), _tensor(weights, f"{name}.bias"))
            for name in (full.removesuffix(".weight") for full in weights.architecture.tensors)
            if name.endswith("LayerNorm")
        }

    def embed(self, token_ids: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """Add words and places and normalise: [N, hidden]."""
        words = functional.embedding(token_ids[is_token], self._words)
        places = self._places[: token_ids.shape[1]].expand(*token_ids.shape, -1)[is_token]
        return self._normalised(words + places, "embeddings.LayerNorm")

    def block(self, index: int, hidden: torch.Tensor, is_token: torch.Tensor, apply: Apply) -> torch.Tensor:
        """Run one block on [N, hidden]; nobody attends to padding."""
        name = f"encoder.layer.{index}"
        parts = (apply(f"{name}.attention.self.{part}", hidden) for part in ("query", "key", "value"))
        shape = (*is_token.shape, self._config.num_heads, self._config.head_dim)
        q, k, v = (_padded(part, is_token).view(shape).transpose(1, 2) for part in parts)
        mixed = _attended(q, k, v, is_seen=is_token[:, None, None, :])
        attended = _tokens(mixed.transpose(1, 2).flatten(2), is_token)
        attended = apply(f"{name}.attention.output.dense", attended)
        hidden = self._normalised(attended + hidden, f"{name}.attention.output.LayerNorm")
        inner = functional.gelu(apply(f"{name}.intermediate.dense", hidden))
        return self._normalised(apply(f"{name}.output.dense", inner) + hidden, f"{name}.output.LayerNorm")

    def output(self, hidden: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """Return the mean over each text's tokens as unit vectors, [B, hidden]."""
        return functional.normalize(_padded(hidden, is_token).sum(dim=1), dim=-1)

    def _normalised(self, x: torch.Tensor, norm: str) -> torch.Tensor:
        weight, bias = self._norms[norm]
        return functional.layer_norm(x, (x.shape[-1],), weight, bias, self._config.norm_eps)


def _padded(x: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
    """Return [B, T, D] of the tokens' [N, D], with zeros elsewhere."""
    places = is_token.flatten().nonzero()[:, 0]
    padded = x.new_zeros(is_token.numel(), x.shape[-1]).index_copy(0, places, x)
    return padded.view(*is_token.shape, -1)


def _tokens(x: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
    """Return the tokens' [N, D] of [B, T, D]."""
    return x.flatten(0, 1).index_select(0, is_token.flatten().nonzero()[:, 0])


def _causal(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, scaling: Scaling, window: int | None
) -> torch.Tensor:
    """Mix values [B, heads, T, dim]; heads of queries share those of keys and values."""
    tokens, cap = q.shape[2], scaling.attention_cap
    if cap is None and (window is None or window >= tokens):
        return functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True, scale=scaling.attention
        )
    shared = q.shape[1] // k.shape[1]
    scores = (q @ k.repeat_interleave(shared, dim=1).transpose(-1, -2)) * scaling.attention
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    back = torch.arange(tokens)[:, None] - torch.arange(tokens)
    is_seen = (back >= 0) & (back < (tokens if window is None else window))
    mixed = torch.softmax(scores.masked_fill(~is_seen, -torch.inf), dim=-1)
    return mixed.to(v.dtype) @ v.repeat_interleave(shared, dim=1)


def _attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, is_seen: torch.Tensor) -> torch.Tensor:
    """Mix values [B, heads, T, dim]; going backwards, torch's fused kernel took 40 % of a step."""
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return torch.softmax(scores.masked_fill(~is_seen, -torch.inf), dim=-1) @ v


def _tensor(weights: CheckpointWeights, name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(weights.array(name)))


ACTIVATIONS = {"silu", "gelu", "gelu_pytorch_tanh"}
KNOWN: dict[str, type[Decoder | Encoder]] = {
    "llama": Decoder,
    "mistral": Decoder,
    "qwen2": Decoder,
    "qwen3": Decoder,
    "gemma2": Decoder,
    "gemma3_text": Decoder,
    "bert": Encoder,
}


def differentiable(config: ModelConfig, weights: CheckpointWeights) -> Differentiable:
    """Return the model of a source for training (ValidationError: its architecture is not known here)."""
    check_known(config)
    return KNOWN[config.model_type](config, weights)


def check_known(config: ModelConfig) -> None:
    """Raise ValidationError for an architecture that cannot be trained here."""
    if config.model_type not in KNOWN or config.activation not in ACTIVATIONS:
        raise ValidationError(
            f"Training knows {', '.join(KNOWN)}, not {config.model_type} with {config.activation}: choose "
            "the profile balanced.",
            field="profile",
        )
