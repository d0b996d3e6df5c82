"""The chunks of one step laid out as one batch for the model."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels.pages import BLOCK_SIZE
from tritium.model.batch import ForwardBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.engine.scheduler import Chunk


def lay_out(chunks: Sequence[Chunk]) -> ForwardBatch:
    """Return the batch of these chunks, with logits of as many tokens as each of them needs."""
    lengths = np.array([chunk.num_tokens for chunk in chunks], dtype=np.int32)
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    firsts = np.array([chunk.sequence.num_computed for chunk in chunks], dtype=np.int32)
    tables = np.zeros((len(chunks), max(len(chunk.sequence.blocks) for chunk in chunks)), dtype=np.int32)
    for row, chunk in enumerate(chunks):
        tables[row, : len(chunk.sequence.blocks)] = chunk.sequence.blocks
    rows = np.repeat(np.arange(len(chunks)), lengths)
    positions = np.arange(starts[-1], dtype=np.int32) - starts[rows] + firsts[rows]
    token_ids = np.concatenate(
        [
            np.array(chunk.sequence.tokens[first : first + chunk.num_tokens], dtype=np.int32)
            for chunk, first in zip(chunks, firsts, strict=True)
        ]
    )
    slots = tables[rows, positions // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + positions % BLOCK_SIZE
    wanted = [
        np.arange(end - chunk.num_logits, end, dtype=np.int32)
        for chunk, end in zip(chunks, starts[1:], strict=True)
    ]
    return ForwardBatch(
        token_ids=token_ids,
        positions=positions,
        sequence_starts=starts,
        block_tables=tables,
        context_lengths=firsts + lengths,
        slots=slots,
        logit_rows=np.concatenate(wanted),
    )


def apportion(total: int, *, shares: Sequence[int]) -> list[int]:
    """Divide a whole number in proportion to positive shares; the parts sum to the whole exactly."""
    whole = sum(shares)
    bounds, before = [0], 0
    for share in shares:
        before += share
        bounds.append(total * before // whole)
    return [high - low for low, high in itertools.pairwise(bounds)]
