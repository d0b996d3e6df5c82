"""Usage numbers of an answer: counted tokens, never estimated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.engine.request import ScoredToken


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedChoice:
    """One choice in one piece; `logprobs` are None if they were not asked for."""

    text: str
    finish_reason: str
    completion_tokens: int
    logprobs: tuple[ScoredToken, ...] | None = None


def usage_object(
    choices: Sequence[FinishedChoice], *, prompt_tokens: int, cached_tokens: int
) -> dict[str, object]:
    """Return the wire's `usage`: the prompt counts once, however many choices continue it."""
    completion_tokens = sum(choice.completion_tokens for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
