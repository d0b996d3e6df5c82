"""One step's chunks through the model: logits for whoever gets a token, and whose computation failed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from tritium.engine.batch import lay_out
from tritium.errors import BitNetServiceError, ProcessingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tritium.engine.scheduler import Chunk
    from tritium.model.batch import ForwardBatch, KVCache
    from tritium.model.config import ModelConfig
    from tritium.model.tokenizer import Tokenizer

    Computed = tuple[dict[str, NDArray[np.float32]], dict[str, str]]

logger = logging.getLogger(__name__)


class GeneratingModel(Protocol):
    """A model that continues text."""

    @property
    def config(self) -> ModelConfig:
        """The sizes of the model."""

    @property
    def threads(self) -> int:
        """How many threads it may use; so may the choice of tokens."""

    def forward(self, batch: ForwardBatch, cache: KVCache) -> NDArray[np.float32]:
        """Write the batch's keys and values into the cache and return logits [S, vocabulary]."""


def compute(
    chunks: Sequence[Chunk], *, model: GeneratingModel, cache: KVCache, tokenizer: Tokenizer
) -> Computed:
    """Return logits per request, and messages for the requests whose computation failed.

    If a batch fails, its requests are computed one by one, so that one bad request takes nobody along.
    """
    try:
        rows = model.forward(lay_out(chunks), cache)
    except Exception as error:
        if len(chunks) > 1:
            return _compute_apart(chunks, model=model, cache=cache, tokenizer=tokenizer)
        logger.exception("a request failed in the model")
        message = str(error) if isinstance(error, BitNetServiceError) else "The model failed on this request."
        return {}, {chunks[0].sequence.request.request_id: message}
    return _deal_out(chunks, rows, tokenizer=tokenizer)


def _compute_apart(
    chunks: Sequence[Chunk], *, model: GeneratingModel, cache: KVCache, tokenizer: Tokenizer
) -> Computed:
    logits: dict[str, NDArray[np.float32]] = {}
    errors: dict[str, str] = {}
    for chunk in chunks:
        found, failed = compute([chunk], model=model, cache=cache, tokenizer=tokenizer)
        logits |= found
        errors |= failed
    return logits, errors


def _deal_out(chunks: Sequence[Chunk], rows: NDArray[np.float32], *, tokenizer: Tokenizer) -> Computed:
    """Score prompts with their rows of logits; return the rows that decide next tokens, and errors."""
    logits: dict[str, NDArray[np.float32]] = {}
    errors: dict[str, str] = {}
    for chunk in chunks:
        sequence, count = chunk.sequence, chunk.num_logits
        own, rows = rows[:count], rows[count:]
        try:
            if sequence.scores_prompt:
                sequence.score_prompt(own, tokenizer=tokenizer)
            if chunk.needs_logits:
                logits[sequence.request.request_id] = own[-1]
        except ProcessingError as error:
            errors[sequence.request.request_id] = error.message
    return logits, errors
