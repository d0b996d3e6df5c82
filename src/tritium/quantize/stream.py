"""One model with the calibration text on its way through the blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ValidationError
from tritium.model.batch import ForwardBatch
from tritium.quantize.text import passages, read_text, spread, token_windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritium.model.decoder import DecoderModel
    from tritium.model.encoder import EncoderModel
    from tritium.model.pretrained import LoadedModel
    from tritium.quantize.config import QuantizationConfig

TOKENS_PER_PASSAGE = 64  # about; passages are cut by characters


class _ReachedError(Exception):
    """The layer whose input was asked for is reached; the rest of the block need not run."""


class TextStream:
    """A model and the tokens of the calibration text; hidden states [T, hidden] pass its blocks."""

    def __init__(self, config: QuantizationConfig, loaded: LoadedModel) -> None:
        """Cut the calibration text into tokens of this model."""
        self.model: DecoderModel | EncoderModel = loaded.model
        self._loaded = loaded
        text = read_text(config.calibration_text or "")
        limit = config.calibration_tokens
        window = min(config.window, loaded.config.max_positions)
        if loaded.config.is_encoder:
            chosen = spread(passages(text), count=max(1, limit // TOKENS_PER_PASSAGE))
            ids = [np.array(loaded.tokenizer.encode(each)[:window], dtype=np.int32) for each in chosen]
        else:
            ids = token_windows(
                loaded.tokenizer,
                text,
                window=max(2, min(window, limit)),
                limit=limit,
                first_token=loaded.config.bos_token_id,
            )
        if not ids:
            raise ValidationError(
                "The calibration text is too short: it has less than two tokens.", field="calibration_text"
            )
        self._batch = ForwardBatch.of_sequences(ids)

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
