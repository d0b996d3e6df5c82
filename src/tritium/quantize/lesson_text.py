"""The text that layers learn on, drawn anew for every step.

A generator learns on windows as they were cut. An encoder makes one vector of a whole text: of the same
passages again and again it would learn those passages, so it is given pieces of any length from anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from tritium.quantize.shards import Batch
from tritium.quantize.text import passages, read_text, spread
from tritium.quantize.windows import TOKENS_PER_PASSAGE, training_windows, window_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tritium.model.pretrained import LoadedModel
    from tritium.quantize.plan import QuantizationPlan

LONGEST_PIECE = 128
SHORTEST_SHARE = 5  # of the longest: a fifth


class LessonText(Protocol):
    """A text that steps are drawn from."""

    def draw(self, chance: np.random.Generator, *, tokens: int) -> Batch:
        """Return what one step learns on, about so many tokens."""


class Windows(NamedTuple):
    """Windows of tokens, each taken as it is."""

    windows: Sequence[NDArray[np.int32]]

    def draw(self, chance: np.random.Generator, *, tokens: int) -> Batch:
        """Return some of the windows, the shorter ones padded."""
        count = max(1, tokens * len(self.windows) // sum(map(len, self.windows)))
        chosen = [self.windows[index] for index in chance.integers(0, len(self.windows), count)]
        token_ids = torch.zeros((count, max(map(len, chosen))), dtype=torch.int64)
        is_token = torch.zeros(token_ids.shape, dtype=torch.bool)
        for row, window in enumerate(chosen):
            token_ids[row, : len(window)] = torch.from_numpy(window.astype(np.int64))
            is_token[row, : len(window)] = True
        return Batch(token_ids, is_token)


class Pieces(NamedTuple):
    """Pieces of one long text.

    Attributes:
        text: its tokens, without special ones.
        before: the special tokens that stand before each piece.
        after: those behind it.
        longest: how many tokens a piece may have, special ones included.
    """

    text: NDArray[np.int32]
    before: Sequence[int]
    after: Sequence[int]
    longest: int

    def draw(self, chance: np.random.Generator, *, tokens: int) -> Batch:
        """Return pieces of one length, from anywhere."""
        around = len(self.before) + len(self.after)
        most = min(LONGEST_PIECE, self.longest - around, len(self.text))
        length = int(chance.integers(most // SHORTEST_SHARE, most + 1))
        starts = chance.integers(0, len(self.text) - length + 1, max(1, round(tokens / (length + around))))
        pieces = [[*self.before, *self.text[start : start + length], *self.after] for start in starts]
        token_ids = torch.tensor(np.array(pieces, dtype=np.int64))
        return Batch(token_ids, torch.ones_like(token_ids, dtype=torch.bool))


def lesson_text(plan: QuantizationPlan, workdir: Path, loaded: LoadedModel) -> LessonText:
    """Return the text that a plan's layers learn on; an encoder's plan has a calibration text."""
    if not loaded.config.is_encoder:
        return Windows(training_windows(plan, workdir, loaded))
    count = max(1, plan.config.training_tokens // TOKENS_PER_PASSAGE)
    chosen = spread(passages(read_text(plan.config.calibration_text or "")), count=count)
    bodies = [loaded.tokenizer.encode(each, add_special=False) for each in chosen]
    text = np.array([token for body in bodies for token in body], dtype=np.int32)
    fullest = max(range(len(bodies)), key=lambda index: len(bodies[index]))
    before, after = _around(bodies[fullest], loaded.tokenizer.encode(chosen[fullest]))
    return Pieces(text, before, after, longest=window_of(plan, loaded))


def _around(body: Sequence[int], whole: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Return the special tokens that stand before and behind a text."""
    starts = range(len(whole) - len(body) + 1)
    start = next(start for start in starts if whole[start : start + len(body)] == body)
    return whole[:start], whole[start + len(body) :]
