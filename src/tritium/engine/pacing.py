"""How many tokens of a prompt may ride along with those who are writing."""

from __future__ import annotations

_SLACK = 0.4  # of a step's time may be spent on prompts beside it: steps that are alike differ by a third
_FIRST = 16  # prompt tokens, before it was measured what one costs
_PACED_STEPS = 16  # after so many it is measured again what a step without prompts costs
_WEIGHT = 0.2  # of the newest measurement


class PromptPacer:
    """Learns what steps cost, and says how many prompt tokens may ride along with sequences that write."""

    def __init__(self) -> None:
        self._step_seconds: float | None = None  # of a step without prompts
        self._token_seconds: float | None = None  # that one prompt token adds
        self._steps_since_alone = 0  # those with prompts

    @property
    def budget(self) -> int:
        """Prompt tokens that lengthen the next step by at most the slack; 0 for a step to measure."""
        # Who writes changes while a long prompt is read, so the measurement must not grow old.
        if self._step_seconds is None or self._steps_since_alone >= _PACED_STEPS:
            return 0
        if self._token_seconds is None:
            return _FIRST
        return max(1, int(_SLACK * self._step_seconds / self._token_seconds))

    def record(self, seconds: float, *, writing: int, prompt_tokens: int) -> None:
        """Learn from a step of `writing` sequences and so many prompt tokens."""
        if not writing:
            return
        if not prompt_tokens:
            self._steps_since_alone = 0
            self._step_seconds = _blend(self._step_seconds, seconds)
            return
        self._steps_since_alone += 1
        if self._step_seconds is not None:
            # Later tokens of a long prompt attend to more: the figure follows. A floor keeps it positive.
            added = max((seconds - self._step_seconds) / prompt_tokens, 1e-9)
            self._token_seconds = _blend(self._token_seconds, added)


def _blend(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
