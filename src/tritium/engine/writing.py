"""The next token of every request that has logits: chosen, counted, and turned into text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tritium.engine.logprobs import score_token
from tritium.engine.sampler import choose_tokens
from tritium.errors import ProcessingError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from tritium.engine.monitor import InferenceMonitor
    from tritium.engine.scheduler import Scheduler
    from tritium.engine.sequence import Sequence
    from tritium.model.tokenizer import Tokenizer


class TokenWriter:
    """Extends sequences by a token each.

    Args:
        end_token_ids: tokens which end a text.
        threads: how many may choose.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        monitor: InferenceMonitor,
        tokenizer: Tokenizer,
        end_token_ids: Collection[int],
        threads: int,
    ) -> None:
        self._scheduler = scheduler
        self._monitor = monitor
        self._tokenizer = tokenizer
        self._end_tokens = frozenset(end_token_ids)
        self._threads = threads

    def extend_all(
        self,
        sequences: Mapping[str, Sequence],
        logits: Mapping[str, NDArray[np.float32]],
        errors: dict[str, str],
    ) -> dict[str, str]:
        """Choose the next token of every request that has logits; return the new texts, and note errors."""
        chosen = [sequences[request_id] for request_id in logits]
        tokens = choose_tokens(list(logits.values()), chosen, threads=self._threads)
        texts: dict[str, str] = {}
        for request_id, sequence, token in zip(logits, chosen, tokens, strict=True):
            if isinstance(token, ProcessingError):
                errors[request_id] = token.message
            else:
                texts[request_id] = self._extend(sequence, token, logits[request_id])
        return texts

    def _extend(self, sequence: Sequence, token: int, logits: NDArray[np.float32]) -> str:
        self._scheduler.record_token(sequence)
        self._note_time(sequence, time.monotonic())
        sampling = sequence.request.sampling
        ignores_end = sampling.ignore_eos and sequence.grammar is None  # a form that is complete must end
        is_end_token = token in self._end_tokens and not ignores_end
        if sequence.scored is not None and sampling.logprobs is not None and not is_end_token:
            scored = score_token(logits, token, top=sampling.logprobs, tokenizer=self._tokenizer)
            sequence.scored.add(scored)
        return sequence.append(token, is_end_token=is_end_token)

    def _note_time(self, sequence: Sequence, now: float) -> None:
        last = sequence.last_token_at
        self._monitor.record_token(
            since_arrival=now - sequence.request.arrival,
            since_last_token=None if last is None else now - last,
        )
        sequence.last_token_at = now
        if sequence.first_token_at is None:
            sequence.first_token_at = now
