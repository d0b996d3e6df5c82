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

    def inputs_of_block(
        self, block: int, hidden: NDArray[np.float32], *, until: str | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return the inputs of the block's linear layers by name; those that share one have the same array.

        Args:
            block: which block.
            hidden: what enters it.
            until: run no further than this layer, and return its input alone; None runs the whole block.
        """
        inputs: dict[str, NDArray[np.float32]] = {}

        def observe(name: str, x: NDArray[np.float32]) -> None:
            if until in (None, name):
                inputs[name] = x
            if name == until:
                raise _ReachedError

        self.model.observer = observe
        try:
            self.after_block(block, hidden)
        except _ReachedError:
            pass
        finally:
            self.model.observer = None
        return inputs
