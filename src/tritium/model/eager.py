"""The operations carried out one by one, on arrays: what calibration watches, and what plans must equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels import cpu
from tritium.kernels.attention import paged_attention, write_kv
from tritium.model.layers import require_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tritium.kernels.pages import Pool
    from tritium.model.batch import ForwardBatch, KVCache
    from tritium.model.config import ModelConfig
    from tritium.model.layers import Embedding, Float32, Linear, RMSNorm
    from tritium.model.linears import LinearTable

_GATES: Mapping[str, Callable[[Float32, Float32], Float32]] = {
    "silu": cpu.silu_multiply,
    "relu2": cpu.relu2_multiply,
    "gelu_pytorch_tanh": cpu.gelu_tanh_multiply,
}


@dataclass(frozen=True)
class EagerOperations:
    """One batch on its way through a model; the table's observer sees the input of every linear layer."""

    config: ModelConfig
    table: LinearTable
    inverse_frequencies: Sequence[Float32]  # by layer
    batch: ForwardBatch
    cache: KVCache
    threads: int

    def embed(self, table: Embedding) -> Float32:
        """Look the tokens of the batch up: [T, hidden]."""
        return table(self.batch.token_ids)

    def normalise(self, norm: RMSNorm, x: Float32) -> Float32:
        """Divide each row by its root mean square and multiply by the norm's weight."""
        return norm(x)

    def normalise_heads(self, norm: RMSNorm, x: Float32) -> Float32:
        """Do the same to every head of each row: the norm has the width of one."""
        return norm(x.reshape(-1, len(norm.weight))).reshape(x.shape)

    def linears(self, names: Sequence[str], x: Float32) -> list[Float32]:
        """Run named linear layers on the same rows."""
        return self.table.apply(names, x)

    def attend(self, layer: int, q: Float32, k: Float32, v: Float32) -> Float32:
        """Turn q and k by their positions, keep k and v in the cache, and attend to the row's past."""
        config, batch, rows = self.config, self.batch, len(q)
        queries = q.reshape(rows, config.num_heads, config.head_dim)
        keys = k.reshape(rows, config.num_kv_heads, config.head_dim)
        values = v.reshape(rows, config.num_kv_heads, config.head_dim)
        cpu.rope_inplace(queries, batch.positions, self.inverse_frequencies[layer])
        cpu.rope_inplace(keys, batch.positions, self.inverse_frequencies[layer])
        pool = self.pool(layer)
        write_kv(keys, values, pool, batch.slots, threads=self.threads)
        mixed = paged_attention(
            queries,
            pool,
            block_tables=batch.block_tables,
            query_starts=batch.sequence_starts,
            context_lengths=batch.context_lengths,
            scale=config.scaling.attention,
            window=config.windows[layer],
            cap=config.scaling.attention_cap,
            threads=self.threads,
        )
        return mixed.reshape(rows, config.num_heads * config.head_dim)

    def pool(self, layer: int) -> Pool:
        """Return where a layer keeps its keys and values."""
        return self.cache.layers[layer]

    def gate(self, gate: Float32, up: Float32) -> Float32:
        """Multiply the activation of `gate` by `up`."""
        return _GATES[self.config.activation](gate, up)

    def bound(self, x: Float32, cap: float) -> Float32:
        """Keep each element between -cap and cap, smoothly."""
        return cpu.bound(x, cap=cap)

    def add(self, x: Float32, y: Float32) -> Float32:
        """Add elementwise."""
        return x + y

    def logit_rows(self, x: Float32) -> Float32:
        """Take the rows whose logits are wanted; they must be finite (ProcessingError)."""
        rows = np.ascontiguousarray(x[self.batch.logit_rows])
        require_finite(rows)
        return rows

    def head(self, head: Linear, x: Float32) -> Float32:
        """Map rows [S, hidden] to logits [S, vocabulary]."""
        return head(x)
