"""Gemma 2: the decoder with a norm on both sides of attention and of the feed-forward part."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tritium.model.decoder import DecoderModel

if TYPE_CHECKING:
    from tritium.model.config import ModelConfig
    from tritium.model.layers import RMSNorm, WeightSource
    from tritium.model.operations import Operations, Value


class Gemma2Model(DecoderModel):
    """Gemma2ForCausalLM: four norms a block, tanh-GELU, scaled embeddings, bounded logits."""

    feed_forward_norm: ClassVar[str] = "pre_feedforward_layernorm"

    def __init__(self, config: ModelConfig, weights: WeightSource, *, threads: int = 1) -> None:
        super().__init__(config, weights, threads=threads)
        blocks = [f"model.layers.{index}" for index in range(config.num_layers)]
        self._attended_norms, self._fed_norms = (
            [self._norm(weights, f"{block}.{name}") for block in blocks]
            for name in ("post_attention_layernorm", "post_feedforward_layernorm")
        )

    def after_attention(self, run: Operations[Value], index: int, x: Value) -> Value:
        """Apply post_attention_layernorm to rows [T, hidden]."""
        return run.normalise(self._attended_norms[index], x)

    def after_feed_forward(self, run: Operations[Value], index: int, x: Value) -> Value:
        """Apply post_feedforward_layernorm to rows [T, hidden]."""
        return run.normalise(self._fed_norms[index], x)

    def _norm(self, weights: WeightSource, name: str) -> RMSNorm:
        """Load a norm: its weight is stored as the difference from 1."""
        norm = super()._norm(weights, name)
        return replace(norm, weight=norm.weight + np.float32(1))
