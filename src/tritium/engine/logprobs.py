"""How probable the tokens of an answer were, handed out together with the text they spell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.engine.request import ScoredToken, TokenLogprob
from tritium.kernels.sampling import log_probabilities

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tritium.model.tokenizer import Tokenizer


def score_token(logits: NDArray[np.float32], token_id: int, *, top: int, tokenizer: Tokenizer) -> ScoredToken:
    """Return the log-probabilities of a token and of the `top` most likely ones under logits [V]."""
    chosen, best = log_probabilities(logits, token=token_id, top=top)
    return ScoredToken(
        chosen=_spelled(token_id, chosen, tokenizer),
        top=tuple(_spelled(other, logprob, tokenizer) for other, logprob in best),
    )


def first_token(token_id: int, *, tokenizer: Tokenizer) -> ScoredToken:
    """Return the first token of a prompt, whose probability nothing tells."""
    return ScoredToken(chosen=_spelled(token_id, None, tokenizer), top=())


def _spelled(token_id: int, logprob: float | None, tokenizer: Tokenizer) -> TokenLogprob:
    spelling = tokenizer.spelling
    return TokenLogprob(
        token_id=token_id,
        token=spelling.token(token_id),
        spelling=None if spelling.is_special(token_id) else spelling.bytes_of(token_id),
        logprob=logprob,
    )


class ScoredText:
    """Holds scored tokens back until some of their text is shown.

    A token whose text is held back (half a character, the beginning of a stop text) waits with it; one whose
    text is never shown (it belongs to the stop text) is never handed out.
    """

    def __init__(self) -> None:
        self._waiting: list[ScoredToken] = []
        self._start = 0  # bytes of text before the first one that waits
        self._shown = 0  # bytes of text handed out

    def add(self, token: ScoredToken) -> None:
        """Take the next token of the answer."""
        self._waiting.append(token)

    def take(self, text: str, *, is_all: bool) -> tuple[ScoredToken, ...]:
        """Return the tokens that begin before the end of the text shown so far, `text` included.

        Args:
            text: what is shown now.
            is_all: whether the text of every token so far is shown with it.
        """
        self._shown += len(text.encode())
        count = 0
        while count < len(self._waiting) and (is_all or self._start < self._shown):
            self._start += len(self._waiting[count].chosen.spelling or b"")
            count += 1
        taken, self._waiting = tuple(self._waiting[:count]), self._waiting[count:]
        return taken
