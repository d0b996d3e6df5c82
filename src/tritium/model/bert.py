"""BERT as a sentence encoder: every token sees its whole text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels import cpu
from tritium.kernels.attention import ragged_attention
from tritium.model.encoder import EncoderModel, Int32
from tritium.model.layers import Embedding, Float32, LayerNorm, WeightSource
from tritium.model.linears import LinearTable

if TYPE_CHECKING:
    from tritium.model.config import ModelConfig
    from tritium.model.pooling import Pooling


class BertModel(EncoderModel):
    """A bidirectional encoder with learned positions."""

    def __init__(
        self, config: ModelConfig, weights: WeightSource, *, pooling: Pooling, threads: int = 1
    ) -> None:
        blocks = [f"encoder.layer.{index}" for index in range(config.num_layers)]
        names = [name for block in blocks for name in _linears_of(block)]
        linears = LinearTable({name: weights.linear(name, threads=threads) for name in names})
        super().__init__(config, linears, pooling=pooling, threads=threads)
        self._blocks = blocks
        self._words = Embedding(weights.table("embeddings.word_embeddings.weight", threads=threads))
        self._positions = weights.array("embeddings.position_embeddings.weight")
        self._first_type = weights.array("embeddings.token_type_embeddings.weight")[0]
        self._input_norm = self._norm(weights, "embeddings.LayerNorm")
        self._attention_norms = [
            self._norm(weights, f"{block}.attention.output.LayerNorm") for block in blocks
        ]
        self._output_norms = [self._norm(weights, f"{block}.output.LayerNorm") for block in blocks]

    def embed(self, token_ids: Int32, starts: Int32) -> Float32:
        """Return what enters the first block, [T, hidden]."""
        lengths = np.diff(starts)
        positions = np.arange(len(token_ids), dtype=np.int32) - np.repeat(starts[:-1], lengths)
        return self._input_norm(self._words(token_ids) + self._first_type + self._positions[positions])

    def run_block(self, index: int, hidden: Float32, starts: Int32) -> Float32:
        """Run one block on [T, hidden]."""
        block, config = self._blocks[index], self.config
        inputs = [f"{block}.attention.self.{part}" for part in ("query", "key", "value")]
        shape = (len(hidden), config.num_heads, config.head_dim)
        q, k, v = (rows.reshape(shape) for rows in self._linears.apply(inputs, hidden))
        mixed = ragged_attention(
            q, k, v, sequence_starts=starts, scale=config.head_dim**-0.5, threads=self.threads
        ).reshape(len(hidden), config.hidden_size)
        (attended,) = self._linears.apply([f"{block}.attention.output.dense"], mixed)
        hidden = self._attention_norms[index](attended + hidden)
        (inner,) = self._linears.apply([f"{block}.intermediate.dense"], hidden)
        (outer,) = self._linears.apply([f"{block}.output.dense"], cpu.gelu(inner))
        return self._output_norms[index](outer + hidden)

    def _norm(self, weights: WeightSource, name: str) -> LayerNorm:
        return LayerNorm(weights.array(f"{name}.weight"), weights.array(f"{name}.bias"), self.config.norm_eps)


def _linears_of(block: str) -> tuple[str, ...]:
    parts = ("self.query", "self.key", "self.value", "output.dense")
    return (
        *(f"{block}.attention.{part}" for part in parts),
        f"{block}.intermediate.dense",
        f"{block}.output.dense",
    )
