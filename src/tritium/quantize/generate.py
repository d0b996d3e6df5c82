"""A calibration text that the model writes itself: what it was trained on, as far as it remembers.

Text sampled from a model, without temperature, is drawn from the distribution that it learned; LLM-QAT (arXiv
2305.17888) trains on it where no data is at hand. For calibration it has one more merit: a text that a user
brings is often of one kind, and what is not in it is what compensation spends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ProcessingError, ValidationError
from tritium.kernels.pages import BLOCK_SIZE
from tritium.kernels.sampling import sample_rows
from tritium.model.batch import ForwardBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tritium.model.config import ModelConfig
    from tritium.model.pretrained import LoadedModel

MOST_AT_ONCE = 64  # windows that are written side by side
CACHE_BYTES = 256 << 20  # of their keys and values


def written_windows(
    loaded: LoadedModel, *, tokens: int, window: int, seed: int = 0
) -> list[NDArray[np.int32]]:
    """Let a generator write windows of text, about `tokens` tokens in all.

    Args:
        loaded: a generator, dense or ternary.
        tokens: as many whole windows as they fill, at least one.
        window: tokens of a window.
        seed: of the choices; the same seed gives the same windows on one machine.

    Raises:
        ValidationError: the model is an encoder, or has no token that begins a text.
        ProcessingError: an activation became NaN or infinite.
    """
    begin = beginning_token(loaded.config)
    model = loaded.generator
    cache_bytes = model.new_cache(1).block_bytes * -(-window // BLOCK_SIZE)
    at_once = max(1, min(MOST_AT_ONCE, CACHE_BYTES // cache_bytes))
    count = max(1, tokens // window)
    written: list[NDArray[np.int32]] = []
    for first in range(0, count, at_once):
        draws = [
            np.random.default_rng([seed, index]).random(window)
            for index in range(first, min(first + at_once, count))
        ]
        written += _written_together(loaded, np.array(draws), begin=begin)
    return written


def beginning_token(config: ModelConfig) -> int:
    """Return the token that a text begins with (ValidationError: the model has none, or is an encoder)."""
    if config.is_encoder:
        raise ValidationError(
            "An encoder cannot write its own calibration text: give it one.", field="calibration_text"
        )
    ends: Sequence[int] = config.eos_token_ids
    begins = ends if config.bos_token_id is None else [config.bos_token_id]
    if not begins:
        raise ValidationError(
            "The model's config names no token that begins or ends a text, so it cannot write its own "
            "calibration text: give it one.",
            field="calibration_text",
        )
    return begins[0]


def _written_together(
    loaded: LoadedModel, draws: NDArray[np.float64], *, begin: int
) -> list[NDArray[np.int32]]:
    """Write one window for each row of draws [B, window], a token of all at a time."""
    model, (rows, window) = loaded.generator, draws.shape
    pages = -(-window // BLOCK_SIZE)
    tables = np.arange(rows * pages, dtype=np.int32).reshape(rows, pages)
    cache = model.new_cache(rows * pages)
    tokens = np.full((rows, window), begin, dtype=np.int32)
    for position in range(window - 1):
        here = np.full(rows, position, dtype=np.int32)
        batch = ForwardBatch(
            token_ids=np.ascontiguousarray(tokens[:, position]),
            positions=here,
            sequence_starts=np.arange(rows + 1, dtype=np.int32),
            block_tables=tables,
            context_lengths=here + np.int32(1),
            slots=tables[:, position // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + position % BLOCK_SIZE,
            logit_rows=np.arange(rows, dtype=np.int32),
        )
        chosen = sample_rows(
            list(model.forward(batch, cache)),
            temperature=[1.0] * rows,
            top_k=[0] * rows,
            top_p=[1.0] * rows,
            min_p=[0.0] * rows,
            random=draws[:, position].tolist(),
            threads=model.threads,
        )
        if min(chosen) < 0:
            raise ProcessingError("An activation became NaN or infinite while the model wrote its text.")
        # After an end another text begins, as where windows are cut from documents.
        has_ended = np.isin(tokens[:, position], loaded.config.eos_token_ids) & (position > 0)
        tokens[:, position + 1] = np.where(has_ended & (tokens[:, position] != begin), begin, chosen)
    return list(tokens)
