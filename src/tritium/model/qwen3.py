"""Qwen3: the decoder with a norm on every head of queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.model.decoder import DecoderModel
from tritium.model.family import FAMILIES

if TYPE_CHECKING:
    from tritium.model.config import ModelConfig
    from tritium.model.layers import WeightSource
    from tritium.model.operations import Operations, Value


class Qwen3Model(DecoderModel):
    """Qwen3ForCausalLM: each head of q and k is normalised before it is turned by its position."""

    def __init__(self, config: ModelConfig, weights: WeightSource, *, threads: int = 1) -> None:
        super().__init__(config, weights, threads=threads)
        blocks = [f"{FAMILIES[config.model_type].root}layers.{index}" for index in range(config.num_layers)]
        self._query_norms = [self._norm(weights, f"{block}.self_attn.q_norm") for block in blocks]
        self._key_norms = [self._norm(weights, f"{block}.self_attn.k_norm") for block in blocks]

    def normalise_heads(self, run: Operations[Value], index: int, q: Value, k: Value) -> tuple[Value, Value]:
        """Apply q_norm and k_norm to the heads of rows [T, heads x head_dim]."""
        return (
            run.normalise_heads(self._query_norms[index], q),
            run.normalise_heads(self._key_norms[index], k),
        )
