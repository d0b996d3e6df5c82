"""BERT as a sentence encoder: mean of the last hidden states, scaled to length 1."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tritium.errors import ValidationError
from tritium.kernels import cpu
from tritium.model.layers import (
    Embedding,
    Float32,
    LayerNorm,
    Linear,
    Observer,
    WeightSource,
    require_finite,
)
from tritium.model.linears import LinearTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.model.config import ModelConfig

_SMALLEST_LENGTH = np.float32(1e-12)


class BertModel:
    """A bidirectional encoder; a text's vector never depends on the texts beside it."""

    def __init__(self, config: ModelConfig, weights: WeightSource, *, threads: int = 1) -> None:
        self.config = config
        self.threads = threads
        blocks = [f"encoder.layer.{index}" for index in range(config.num_layers)]
        self._blocks = blocks
        self._words = Embedding(weights.table("embeddings.word_embeddings.weight", threads=threads))
        self._positions = weights.array("embeddings.position_embeddings.weight")
        self._first_type = weights.array("embeddings.token_type_embeddings.weight")[0]
        self._input_norm = self._norm(weights, "embeddings.LayerNorm")
        self._attention_norms = [
            self._norm(weights, f"{block}.attention.output.LayerNorm") for block in blocks
        ]
        self._output_norms = [self._norm(weights, f"{block}.output.LayerNorm") for block in blocks]
        names = [name for block in blocks for name in _linears_of(block)]
        self._linears = LinearTable({name: weights.linear(name, threads=threads) for name in names})

    def linears(self) -> dict[str, Linear]:
        """Return the linear layers of all blocks by name, in the order of the forward pass."""
        return self._linears.as_dict()

    def set_linear(self, name: str, linear: Linear) -> None:
        """Replace one linear layer by another of the same shape (ValidationError if it is not)."""
        self._linears.replace(name, linear)

    @property
    def observer(self) -> Observer | None:
        """What is called with (name, input [M, K]) before each linear layer; None for nothing."""
        return self._linears.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._linears.observer = observer

    def encode(self, sequences: Sequence[npt.ArrayLike]) -> Float32:
        """Turn token id sequences into unit vectors, float32 [B, hidden].

        Raises:
            ValidationError: no sequence, an empty or too long one, or a token id outside the vocabulary.
            ProcessingError: an activation became NaN or infinite.
        """
        arrays = [np.asarray(sequence, dtype=np.int32) for sequence in sequences]
        self._check(arrays)
        starts = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
        hidden = self.hidden_states(np.concatenate(arrays), starts)
        return np.stack([_pool(hidden[start:stop]) for start, stop in pairwise(starts)])

    def hidden_states(self, token_ids: npt.NDArray[np.int32], starts: npt.NDArray[np.int32]) -> Float32:
        """Return the last hidden states [T, hidden] of sequences laid side by side, `starts` [B + 1]."""
        hidden = self.embed(token_ids, starts)
        for index in range(self.config.num_layers):
            hidden = self.run_block(index, hidden, starts)
        require_finite(hidden)
        return hidden

    def embed(self, token_ids: npt.NDArray[np.int32], starts: npt.NDArray[np.int32]) -> Float32:
        """Return what enters the first block, [T, hidden]."""
        lengths = np.diff(starts)
        positions = np.arange(len(token_ids), dtype=np.int32) - np.repeat(starts[:-1], lengths)
        return self._input_norm(self._words(token_ids) + self._first_type + self._positions[positions])

    def run_block(self, index: int, hidden: Float32, starts: npt.NDArray[np.int32]) -> Float32:
        """Run one block on [T, hidden]."""
        block, config = self._blocks[index], self.config
        inputs = [f"{block}.attention.self.{part}" for part in ("query", "key", "value")]
        shape = (len(hidden), config.num_heads, config.head_dim)
        q, k, v = (rows.reshape(shape) for rows in self._linears.apply(inputs, hidden))
        mixed = cpu.ragged_attention(
            q, k, v, sequence_starts=starts, scale=config.head_dim**-0.5, threads=self.threads
        ).reshape(len(hidden), config.hidden_size)
        (attended,) = self._linears.apply([f"{block}.attention.output.dense"], mixed)
        hidden = self._attention_norms[index](attended + hidden)
        (inner,) = self._linears.apply([f"{block}.intermediate.dense"], hidden)
        (outer,) = self._linears.apply([f"{block}.output.dense"], cpu.gelu(inner))
        return self._output_norms[index](outer + hidden)

    def _norm(self, weights: WeightSource, name: str) -> LayerNorm:
        return LayerNorm(weights.array(f"{name}.weight"), weights.array(f"{name}.bias"), self.config.norm_eps)

    def _check(self, arrays: Sequence[npt.NDArray[np.int32]]) -> None:
        if not arrays or any(array.ndim != 1 or not array.size for array in arrays):
            raise ValidationError("Give at least one text, and none may be empty.")
        longest = max(len(array) for array in arrays)
        if longest > self.config.max_positions:
            raise ValidationError(
                f"A text of {longest} tokens is longer than the model's {self.config.max_positions}.",
                limit=self.config.max_positions,
            )
        if any(array.min() < 0 or array.max() >= self.config.vocab_size for array in arrays):
            raise ValidationError(f"A token id is outside the vocabulary of {self.config.vocab_size} tokens.")


def _linears_of(block: str) -> tuple[str, ...]:
    parts = ("self.query", "self.key", "self.value", "output.dense")
    return (
        *(f"{block}.attention.{part}" for part in parts),
        f"{block}.intermediate.dense",
        f"{block}.output.dense",
    )


def _pool(hidden: Float32) -> Float32:
    mean = hidden.mean(axis=0, dtype=np.float32)
    length = np.sqrt(np.square(mean).sum(dtype=np.float32))
    unit: Float32 = mean / np.maximum(length, _SMALLEST_LENGTH)
    return unit
