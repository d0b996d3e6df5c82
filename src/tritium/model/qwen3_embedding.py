"""Qwen3 as a sentence encoder, dense or as BitNet embedding models are: a norm before every projection.

BitNet embedding models (arXiv 2606.25674) keep full-precision masters that are ternarised as those of
`quantization_mode: online` are. What their config does not say, their tensors do: `q_proj.norm.weight` and
its like are the weights of a root-mean-square norm on the input of that projection, with the model's epsilon.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tritium.model.batch import ForwardBatch, KVCache
from tritium.model.eager import EagerOperations
from tritium.model.encoder import EncoderModel, Int32
from tritium.model.qwen3 import Qwen3Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.kernels.pages import Pool
    from tritium.model.config import ModelConfig
    from tritium.model.layers import Float32, WeightSource
    from tritium.model.operations import Operations, Value
    from tritium.model.pooling import Pooling


class Qwen3Backbone(Qwen3Model):
    """Qwen3Model: the decoder without a head, and with a norm before each projection if it has them."""

    def __init__(self, config: ModelConfig, weights: WeightSource, *, threads: int = 1) -> None:
        super().__init__(config, weights, threads=threads)
        normed = self.linears() if config.has_projection_norms else ()
        self._projection_norms = {name: self._norm(weights, f"{name}.norm") for name in normed}

    def project(self, run: Operations[Value], names: Sequence[str], x: Value) -> list[Value]:
        """Run linear layers on the same rows, each behind its own norm."""
        if not self._projection_norms:
            return run.linears(names, x)
        return [run.linears([name], run.normalise(self._projection_norms[name], x))[0] for name in names]


class Qwen3EmbeddingModel(EncoderModel):
    """A causal encoder: the last token has seen the whole text."""

    def __init__(
        self, config: ModelConfig, weights: WeightSource, *, pooling: Pooling, threads: int = 1
    ) -> None:
        self._backbone = Qwen3Backbone(config, weights, threads=threads)
        super().__init__(config, self._backbone.linear_table, pooling=pooling, threads=threads)

    def embed(self, token_ids: Int32, starts: Int32) -> Float32:
        """Return what enters the first block, [T, hidden]."""
        return self._backbone.embed(_batch(starts, token_ids))

    def run_block(self, index: int, hidden: Float32, starts: Int32) -> Float32:
        """Run one block on [T, hidden]."""
        config, batch = self.config, _batch(starts)
        cache = KVCache(1, batch.num_blocks, config.num_kv_heads, config.head_dim)
        run = _OneLayerOperations(
            config, self._linears, self._backbone.inverse_frequencies, batch, cache, self.threads
        )
        return self._backbone.block(run, index, hidden)

    def finish(self, hidden: Float32) -> Float32:
        """Apply the final norm."""
        return self._backbone.final_norm(hidden)


@dataclass(frozen=True)
class _OneLayerOperations(EagerOperations):
    """Operations of one pass that nothing continues: a block needs the keys of no other block."""

    def pool(self, layer: int) -> Pool:
        """Return the only pool."""
        del layer
        return self.cache.layers[0]


def _batch(starts: Int32, token_ids: Int32 | None = None) -> ForwardBatch:
    ids = np.zeros(int(starts[-1]), dtype=np.int32) if token_ids is None else token_ids
    return ForwardBatch.of_sequences([ids[start:stop] for start, stop in pairwise(starts)])
