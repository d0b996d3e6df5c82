"""One model with the calibration text on its way through the blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.model.batch import ForwardBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tritium.model.decoder import DecoderModel
    from tritium.model.encoder import EncoderModel
    from tritium.model.pretrained import LoadedModel


class _ReachedError(Exception):
    """The layer whose input was asked for is reached; the rest of the block need not run."""


class TextStream:
    """A model and the tokens of the calibration text; hidden states [T, hidden] pass its blocks."""

    def __init__(self, loaded: LoadedModel, windows: list[NDArray[np.int32]]) -> None:
        """Lay windows of tokens of this model side by side."""
        self.model: DecoderModel | EncoderModel = loaded.model
        self._loaded = loaded
        self._batch = ForwardBatch.of_sequences(windows)

    @property
    def sequence_starts(self) -> NDArray[np.int32]:
        """Where each window or passage begins among the tokens, and where the last one ends."""
        return self._batch.sequence_starts

    def embedded(self) -> NDArray[np.float32]:
        """Return what enters the first block."""
        if self._loaded.config.is_encoder:
            return self._loaded.encoder.embed(self._batch.token_ids, self._batch.sequence_starts)
        return self._loaded.generator.embed(self._batch)

    def after_block(self, block: int, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one block."""
        if self._loaded.config.is_encoder:
            return self._loaded.encoder.run_block(block, hidden, self._batch.sequence_starts)
        model = self._loaded.generator
        return model.run_block(block, hidden, self._batch, model.new_cache(self._batch.num_blocks))

    def through_block(
        self, block: int, hidden: NDArray[np.float32]
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
        """Run one block; return the inputs of its linear layers by name, and what leaves it.

        Layers that share an input have the same array.
        """
        inputs: dict[str, NDArray[np.float32]] = {}
        self.model.observer = inputs.__setitem__
        try:
            return inputs, self.after_block(block, hidden)
        finally:
            self.model.observer = None

    def input_of(self, block: int, hidden: NDArray[np.float32], *, until: str) -> NDArray[np.float32]:
        """Run one block no further than the layer `until`, and return the input of that layer."""
        inputs: dict[str, NDArray[np.float32]] = {}

        def observe(name: str, x: NDArray[np.float32]) -> None:
            if name == until:
                inputs[name] = x
                raise _ReachedError

        self.model.observer = observe
        try:
            self.after_block(block, hidden)
        except _ReachedError:
            pass
        finally:
            self.model.observer = None
        return inputs[until]
