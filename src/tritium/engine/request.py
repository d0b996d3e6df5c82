"""What the engine is asked for and what it answers: plain frozen values that cross threads and processes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Literal

from tritium.errors import ErrorCategory, ResourceError, ValidationError

FinishReason = Literal["stop", "length", "abort", "error"]

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 1024
MAX_SEED = 2**63 - 1


class ContextLengthExceededError(ValidationError):
    """A prompt does not fit; details: limit_name, limit, prompt_tokens."""


class QueueFullError(ResourceError):
    """Too many requests are waiting already; details: limit, current, retry_after (seconds)."""

    category = ErrorCategory.RATE_LIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen and when to stop.

    Raises:
        ValidationError: a value is out of range; details hold param and limit.

    Attributes:
        max_tokens: at most so many new tokens; None = until the context is full.
        temperature: 0 is greedy (lowest id on ties).
        top_k: keep the k most likely tokens; 0 = all.
        min_p: drop tokens below this share of the most likely token's probability.
        seed: the same seed, prompt and model give the same text, alone or in any batch; None = a fresh one.
        stop: texts which end the answer and do not appear in it.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _require_between("max_tokens", self.max_tokens, low=1, high=2**31 - 1)
        _require_between("temperature", self.temperature, low=0.0, high=2.0)
        _require_between("top_p", self.top_p, low=0.0, high=1.0)
        _require_between("top_k", self.top_k, low=0, high=2**31 - 1)
        _require_between("min_p", self.min_p, low=0.0, high=1.0)
        _require_between("presence_penalty", self.presence_penalty, low=-2.0, high=2.0)
        _require_between("frequency_penalty", self.frequency_penalty, low=-2.0, high=2.0)
        if self.seed is not None:
            _require_between("seed", self.seed, low=-MAX_SEED - 1, high=MAX_SEED)
        if len(self.stop) > MAX_STOP_STRINGS:
            raise ValidationError(
                f"stop holds {len(self.stop)} texts; at most {MAX_STOP_STRINGS} are allowed.",
                param="stop",
                limit=MAX_STOP_STRINGS,
            )
        if any(not text or len(text) > MAX_STOP_LENGTH for text in self.stop):
            raise ValidationError(
                f"each stop text must have 1 to {MAX_STOP_LENGTH} characters.",
                param="stop",
                limit=MAX_STOP_LENGTH,
            )


def _require_between(name: str, value: float, *, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ValidationError(
            f"{name} must be between {low} and {high}, not {value}.", param=name, limit=high
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt to continue.

    Attributes:
        request_id: unique among the requests an engine works on.
        arrival: `time.monotonic()` in seconds when it reached the engine's process.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    arrival: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOutput:
    """What one step added to one request; the last one carries a finish reason.

    Attributes:
        text: the new text; empty while it is held back (part of a stop text, or an unfinished character).
        token_ids: the new tokens, the end-of-text token included.
        completion_tokens: new tokens so far, this output included.
        compute_seconds: the request's share of all steps it took part in, so far.
        queue_seconds: from arrival to its first step.
        peak_kv_bytes: the most key-value memory it held.
        error: for finish reason "error": what happened.
    """

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    prompt_tokens: int
    completion_tokens: int
    compute_seconds: float
    queue_seconds: float
    peak_kv_bytes: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingOutput:
    """Vectors of one embedding request, in the order of its inputs.

    Attributes:
        vectors: one unit-length row of floats per input.
        prompt_tokens: tokens of all inputs together.
        compute_seconds: the request's share of the batches it took part in.
        queue_seconds: from arrival to the start of its first batch.
    """

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    compute_seconds: float
    queue_seconds: float
