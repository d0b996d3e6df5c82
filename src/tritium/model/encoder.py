"""What encoders share: texts beside one another, block after block, then one unit vector for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tritium.errors import ValidationError
from tritium.model.layers import Float32, Linear, Observer, require_finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.model.config import ModelConfig
    from tritium.model.linears import LinearTable
    from tritium.model.pooling import Pooling

Int32 = npt.NDArray[np.int32]


class EncoderModel(ABC):
    """Turns texts into vectors; a text's vector never depends on the texts beside it."""

    def __init__(self, config: ModelConfig, linears: LinearTable, *, pooling: Pooling, threads: int) -> None:
        self.config = config
        self.threads = threads
        self._linears = linears
        self._pooling = pooling

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
        return self.pooled(self.hidden_states(np.concatenate(arrays), starts), starts)

    def hidden_states(self, token_ids: Int32, starts: Int32) -> Float32:
        """Return the last hidden states [T, hidden] of sequences laid side by side, `starts` [B + 1]."""
        hidden = self.embed(token_ids, starts)
        for index in range(self.config.num_layers):
            hidden = self.run_block(index, hidden, starts)
        hidden = self.finish(hidden)
        require_finite(hidden)
        return hidden

    def pooled(self, hidden: Float32, starts: Int32) -> Float32:
        """Turn last hidden states [T, hidden] into one unit vector for each sequence, [B, hidden]."""
        return np.stack([self._pooling.vector(hidden[start:stop]) for start, stop in pairwise(starts)])

    @abstractmethod
    def embed(self, token_ids: Int32, starts: Int32) -> Float32:
        """Return what enters the first block, [T, hidden]."""

    @abstractmethod
    def run_block(self, index: int, hidden: Float32, starts: Int32) -> Float32:
        """Run one block on [T, hidden]."""

    def finish(self, hidden: Float32) -> Float32:
        """Turn what leaves the last block into the last hidden states; bert does nothing."""
        return hidden

    def _check(self, arrays: Sequence[Int32]) -> None:
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
