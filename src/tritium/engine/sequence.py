"""A request at work: its tokens, its blocks, its text, and what it has used."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import TYPE_CHECKING

from tritium.engine.logprobs import ScoredText, score_token
from tritium.engine.request import FinishReason, GenerationRequest, TokenOutput
from tritium.engine.stops import StopMatcher

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tritium.engine.grammar import GrammarMatcher
    from tritium.model.tokenizer import IncrementalDecoder, Tokenizer

_NANOSECONDS = 1_000_000_000


class Sequence:
    """The state of one request inside the engine.

    Attributes:
        tokens: prompt and answer so far.
        num_computed: tokens whose keys and values are in the cache.
        blocks: the blocks of the cache it holds, in order of position.
        block_keys: under what the full ones among them are remembered.
        num_cached: tokens of the prompt that earlier requests had computed.
        limit: tokens of prompt and answer together at which it must end.
        grammar: follows the answer's form, if it must have one.
        scored: the log-probabilities of tokens whose text is not shown yet, if they were asked for.
        num_scored: tokens of the prompt whose log-probabilities are known, the first one aside.
    """

    def __init__(
        self,
        request: GenerationRequest,
        *,
        decoder: IncrementalDecoder,
        limit: int,
        serial: int,
        grammar: GrammarMatcher | None = None,
    ) -> None:
        self.request = request
        self.tenant = request.tenant
        self.weight = request.weight
        self.priority = request.priority
        self.arrival = request.arrival
        self.serial = serial
        self.limit = limit
        self.grammar = grammar
        self.scored = None if request.sampling.logprobs is None else ScoredText()
        self.tokens = list(request.prompt_token_ids)
        self.num_computed = 0
        self.blocks: list[int] = []
        self.block_keys: list[bytes] = []
        self.num_cached = 0
        self.num_scored = 0
        self.counts: Counter[int] = Counter()
        self.seed = secrets.randbits(64) if request.sampling.seed is None else request.sampling.seed
        self.compute_nanoseconds = 0
        self.peak_blocks = 0
        self.num_preemptions = 0
        self.first_step_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.finish_reason: FinishReason | None = None
        self._decoder = decoder
        self._stops = StopMatcher(request.sampling.stop)

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def num_generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.num_prompt

    @property
    def num_uncomputed(self) -> int:
        """Tokens still to be computed before the next one can be chosen."""
        return len(self.tokens) - self.num_computed

    @property
    def num_due(self) -> int:
        """Tokens of the prompt to be paid for: not those that are shared, and nothing is paid for twice."""
        return 0 if self.num_preemptions else self.num_prompt - self.num_computed

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are still to be found."""
        if self.scored is None or not self.request.sampling.echo:
            return False
        return self.num_scored < self.num_prompt - 1

    def score_prompt(self, rows: NDArray[np.float32], *, tokenizer: Tokenizer) -> None:
        """Take the logits [n, V] of the next n tokens to be computed: each scores the one behind its own.

        Raises:
            ProcessingError: they are not finite.
        """
        prompt, top = self.request.prompt_token_ids, self.request.sampling.logprobs or 0
        for behind, row in enumerate(rows, start=self.num_computed + 1):
            # What was computed before it lost its blocks is scored already.
            if self.num_scored < behind < self.num_prompt and self.scored is not None:
                self.scored.add(score_token(row, prompt[behind], top=top, tokenizer=tokenizer))
                self.num_scored = behind

    def append(self, token: int, *, is_end_token: bool) -> str:
        """Take the next token, decide whether the answer ends, and return the text that can be shown."""
        self.tokens.append(token)
        self.counts[token] += 1
        is_complete = self.grammar is not None and self.grammar.accept(token)
        echoes_now = self.request.sampling.echo and self.num_generated == 1
        text = self._decoder.push(*self.request.prompt_token_ids) if echoes_now else ""
        if not is_end_token:
            text += self._stops.feed(self._decoder.push(token))
        if is_end_token or is_complete or self._stops.is_stopped:
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.limit:
            self.finish_reason = "length"
        if self.finish_reason is not None and not self._stops.is_stopped:
            text += self._stops.feed(self._decoder.flush())
            text += self._stops.flush()
        return text

    def forget_computed(self) -> None:
        """Start over with computing (its blocks were taken); tokens and text stay."""
        self.num_computed = 0
        self.block_keys = []
        self.num_preemptions += 1

    def output(
        self,
        *,
        text: str,
        token_ids: tuple[int, ...],
        block_bytes: int,
        now: float,
        error: str | None = None,
        retry_after: float | None = None,
    ) -> TokenOutput:
        """Return what a step added, with everything used so far."""
        started = now if self.first_step_at is None else self.first_step_at
        is_all_shown = self.finish_reason in {"stop", "length"} and not self._stops.is_stopped
        return TokenOutput(
            request_id=self.request.request_id,
            text=text,
            token_ids=token_ids,
            finish_reason=self.finish_reason,
            prompt_tokens=self.num_prompt,
            completion_tokens=self.num_generated,
            compute_seconds=self.compute_nanoseconds / _NANOSECONDS,
            queue_seconds=max(0.0, started - self.request.arrival),
            peak_kv_bytes=self.peak_blocks * block_bytes,
            cached_tokens=self.num_cached,
            error=error,
            retry_after=retry_after,
            logprobs=self.scored.take(text, is_all=is_all_shown) if self.scored else (),
        )
