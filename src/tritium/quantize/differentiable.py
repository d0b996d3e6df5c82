"""Models as torch differentiates them: the same mathematics as `tritium.model`, for training only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn import functional

from tritium.errors import ValidationError
from tritium.model.rope import RopeParameters, inverse_frequencies

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium.model.config import ModelConfig
    from tritium.model.weights import CheckpointWeights

    Apply = Callable[[str, torch.Tensor], torch.Tensor]  # a linear layer by name


class Differentiable(Protocol):
    """A model cut into what is before, in and after its blocks; texts are padded to [B, T]."""

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return what enters the first block, [B, T, hidden]."""

    def block(self, index: int, hidden: torch.Tensor, is_token: torch.Tensor, apply: Apply) -> torch.Tensor:
        """Run one block on [B, T, hidden]; `apply` runs its linear layers by name."""

    def output(self, hidden: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """Return logits [B, T, vocabulary] or unit vectors [B, hidden]."""


class Decoder:
    """llama and those that differ in biases alone."""

    def __init__(self, config: ModelConfig, weights: CheckpointWeights) -> None:
        self._config = config
        self._table = _tensor(weights, "model.embed_tokens.weight")
        self._head = self._table if config.tie_word_embeddings else _tensor(weights, "lm_head.weight")
        self._final_norm = _tensor(weights, "model.norm.weight")
        self._norms = [
            [
                _tensor(weights, f"model.layers.{index}.{norm}.weight")
                for norm in ("input_layernorm", "post_attention_layernorm")
            ]
            for index in range(config.num_layers)
        ]
        rope = config.rope or RopeParameters(theta=10000.0)
        self._frequencies = torch.from_numpy(inverse_frequencies(rope, head_dim=config.head_dim))

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Look the tokens up: [B, T, hidden]."""
        return functional.embedding(token_ids, self._table)

    def block(self, index: int, hidden: torch.Tensor, is_token: torch.Tensor, apply: Apply) -> torch.Tensor:
        """Run one block on [B, T, hidden]; padding stands at the end, where causal attention never looks."""
        del is_token
        name, (attention_norm, feed_forward_norm) = f"model.layers.{index}", self._norms[index]
        x = self._normalised(hidden, attention_norm)
        q, k, v = (apply(f"{name}.self_attn.{part}_proj", x) for part in "qkv")
        mixed = functional.scaled_dot_product_attention(
            self._turned(self._heads(q, self._config.num_heads)),
            self._turned(self._heads(k, self._config.num_kv_heads)),
            self._heads(v, self._config.num_kv_heads),
            is_causal=True,
            enable_gqa=True,
        )
        hidden = hidden + apply(f"{name}.self_attn.o_proj", mixed.transpose(1, 2).flatten(2))
        x = self._normalised(hidden, feed_forward_norm)
        inner = functional.silu(apply(f"{name}.mlp.gate_proj", x)) * apply(f"{name}.mlp.up_proj", x)
        return hidden + apply(f"{name}.mlp.down_proj", inner)

    def output(self, hidden: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """Return logits [B, T, vocabulary]."""
        del is_token
        return functional.linear(self._normalised(hidden, self._final_norm), self._head)

    def _normalised(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self._config.norm_eps)

    def _heads(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        return x.view(*x.shape[:2], heads, self._config.head_dim).transpose(1, 2)

    def _turned(self, x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(x.shape[2])[:, None] * self._frequencies
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

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Add words and places and normalise: [B, T, hidden]."""
        words = functional.embedding(token_ids, self._words)
        return self._normalised(words + self._places[: token_ids.shape[1]], "embeddings.LayerNorm")

    def block(self, index: int, hidden: torch.Tensor, is_token: torch.Tensor, apply: Apply) -> torch.Tensor:
        """Run one block on [B, T, hidden]; nobody attends to padding."""
        name = f"encoder.layer.{index}"
        parts = (apply(f"{name}.attention.self.{part}", hidden) for part in ("query", "key", "value"))
        shape = (*hidden.shape[:2], self._config.num_heads, self._config.head_dim)
        q, k, v = (part.view(shape).transpose(1, 2) for part in parts)
        mixed = _attended(q, k, v, is_seen=is_token[:, None, None, :])
        attended = apply(f"{name}.attention.output.dense", mixed.transpose(1, 2).flatten(2))
        hidden = self._normalised(attended + hidden, f"{name}.attention.output.LayerNorm")
        inner = functional.gelu(apply(f"{name}.intermediate.dense", hidden))
        return self._normalised(apply(f"{name}.output.dense", inner) + hidden, f"{name}.output.LayerNorm")

    def output(self, hidden: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """Return the mean over each text's tokens as unit vectors, [B, hidden]."""
        mean = (hidden * is_token[:, :, None]).sum(dim=1)
        return functional.normalize(mean, dim=-1)

    def _normalised(self, x: torch.Tensor, norm: str) -> torch.Tensor:
        weight, bias = self._norms[norm]
        return functional.layer_norm(x, (x.shape[-1],), weight, bias, self._config.norm_eps)


def _attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, is_seen: torch.Tensor) -> torch.Tensor:
    """Mix values [B, heads, T, dim]; going backwards, torch's fused kernel took 40 % of a step."""
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return torch.softmax(scores.masked_fill(~is_seen, -torch.inf), dim=-1) @ v


def _tensor(weights: CheckpointWeights, name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(weights.array(name)))


KNOWN: dict[str, type[Decoder | Encoder]] = {
    "llama": Decoder,
    "mistral": Decoder,
    "qwen2": Decoder,
    "bert": Encoder,
}


def differentiable(config: ModelConfig, weights: CheckpointWeights) -> Differentiable:
    """Return the model of a source for training (ValidationError: its architecture is not known here)."""
    check_known(config)
    return KNOWN[config.model_type](config, weights)


def check_known(config: ModelConfig) -> None:
    """Raise ValidationError for an architecture that cannot be trained here."""
    if config.model_type not in KNOWN or config.activation not in {"silu", "gelu"}:
        raise ValidationError(
            f"Training knows {', '.join(KNOWN)}, not {config.model_type} with {config.activation}: choose "
            "the profile balanced.",
            field="profile",
        )
