"""How many tokens of a prompt may ride along with those who are writing."""

from __future__ import annotations

_SLACK = 0.6  # of a step's time may be spent on prompts beside it: steps that are alike differ by a third
_FIRST = 4.0  # prompt tokens, before any were tried
_PACED_STEPS = 16  # after so many it is measured again what a step without prompts costs
_WEIGHT = 0.2  # of the newest measurement
_CAUTION = 0.5  # of the way from the tokens of a step to what it says were right
_MOST_HOPE = 1.5  # times the tokens of a step is the most that one is believed to say


class PromptPacer:
    """Finds by trying how many prompt tokens lengthen a step of sequences that write by the slack.

    What they cost is no constant: a chunk reads all of the prompt before it once and computes each of its
    tokens, and both grow along the prompt.
    """

    def __init__(self) -> None:
        self._step_seconds: float | None = None  # of a step without prompts
        self._tokens = _FIRST
        self._steps_since_alone = 0  # those with prompts

    @property
    def budget(self) -> int:
        """Prompt tokens that lengthen the next step by about the slack; 0 for a step to measure."""
        # Who writes changes while a long prompt is read, so the measurement must not grow old.
        if self._step_seconds is None or self._steps_since_alone >= _PACED_STEPS:
            return 0
        return max(1, int(self._tokens))

    def record(self, seconds: float, *, writing: int, prompt_tokens: int) -> None:
        """Learn from a step of `writing` sequences and so many prompt tokens."""
        if not writing:
            return
        if not prompt_tokens:
            self._steps_since_alone = 0
            old = self._step_seconds
            self._step_seconds = seconds if old is None else old + _WEIGHT * (seconds - old)
            return
        allowed = self.budget
        self._steps_since_alone += 1
        if self._step_seconds is not None and prompt_tokens <= allowed:
            self._adapt(seconds, self._step_seconds, is_full=prompt_tokens == allowed)

    def _adapt(self, seconds: float, alone: float, *, is_full: bool) -> None:
        added = max(seconds - alone, 1e-9)
        hope = min(_SLACK * alone / added, _MOST_HOPE)
        if is_full or hope < 1:  # the last tokens of a prompt do not say that more would be cheap
            tokens = self._tokens * (1 + _CAUTION * (hope - 1))
            # Were all that was added the tokens' own, so many would make a step twice as long.
            self._tokens = max(1.0, min(tokens, int(self._tokens) * alone / added))
