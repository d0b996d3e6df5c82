"""What the engine is asked for and what it answers: plain frozen values that cross threads and processes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Literal

from tritium.engine.grammar import Grammar
from tritium.errors import (
    BitNetServiceError,
    ErrorCategory,
    ProcessingError,
    ResourceError,
    ValidationError,
)

FinishReason = Literal["stop", "length", "abort", "error"]

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 1024
MAX_SEED = 2**63 - 1
MAX_LOGIT_BIASES = 1024
MAX_TOP_LOGPROBS = 20
MAX_WEIGHT = 32
MAX_PRIORITY = 1000
_LONGEST_SHOWN = 40  # characters of a wrong value that a message repeats


class ContextLengthExceededError(ValidationError):
    """A prompt does not fit; details: limit_name, limit, prompt_tokens."""


class QueueFullError(ResourceError):
    """Too much waits already; details: limit_name, limit, current, retry_after (seconds)."""

    category = ErrorCategory.RATE_LIMITED


def no_generator() -> ValidationError:
    """Return what is raised when a model that embeds is asked to write."""
    return ValidationError("This model turns texts into vectors; it does not write text.", param="model")


def no_encoder() -> ValidationError:
    """Return what is raised when a model that writes is asked to embed."""
    return ValidationError("This model writes text; it does not turn texts into vectors.", param="model")


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
        logit_bias: what is added to the logits of these tokens, from -100 (as good as banned) to 100 (as good
            as forced).
        stop: texts which end the answer and do not appear in it; a single text or a list becomes a tuple.
        logprobs: tell the log-probability of every token of the answer and of so many of the most likely
            ones, by the model itself: before penalties, logit_bias and temperature; None = tell nothing.
        grammar: the form the answer must have; it ends when the form is complete.
        echo: begin the text with that of the prompt, and `logprobs` with those of its tokens.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    grammar: Grammar | None = None
    echo: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _WHOLE_RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, whole_number_between(name, value, low=low, high=high))
        for name, (lowest, highest) in _REAL_RANGES.items():
            number = _number_between(name, getattr(self, name), low=lowest, high=highest)
            object.__setattr__(self, name, number)
        if self.top_p == 0:
            raise ValidationError(
                "top_p must be above 0, not 0: for the most likely token alone set temperature to 0.",
                param="top_p",
                limit=1.0,
            )
        for name in ("ignore_eos", "echo"):
            if not isinstance(getattr(self, name), bool):
                raise ValidationError(f"{name} must be True or False.", param=name)
        if not isinstance(self.grammar, Grammar | None):
            raise ValidationError("grammar must be a Grammar.", param="grammar")
        object.__setattr__(self, "stop", _stop_texts(self.stop))
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))

    def require_vocabulary(self, vocab_size: int) -> None:
        """Check that the tokens named here are among the model's.

        Raises:
            ValidationError: one is not; details hold param and limit.
        """
        if self.logit_bias and max(self.logit_bias) >= vocab_size:
            raise ValidationError(
                f"logit_bias names the token {max(self.logit_bias)}; ids run from 0 to {vocab_size - 1}.",
                param="logit_bias",
                limit=vocab_size - 1,
            )


# Smallest and largest value of each field.
_WHOLE_RANGES = {
    "max_tokens": (1, 2**31 - 1),
    "top_k": (0, 2**31 - 1),
    "seed": (-MAX_SEED - 1, MAX_SEED),
    "logprobs": (0, MAX_TOP_LOGPROBS),
}
_REAL_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
_OPTIONAL = frozenset({"max_tokens", "seed", "logprobs"})
_LARGEST_BIAS = 100.0


def whole_number_between(name: str, value: object, *, low: int, high: int) -> int:
    """Return a value as a plain int.

    Raises:
        ValidationError: it is no whole number, or out of range; details hold param and limit.
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is None or not low <= number <= high:
        raise ValidationError(
            f"{name} must be a whole number from {low} to {high}, not {_shown(value)}.",
            param=name,
            limit=high,
        )
    return number


def _number_between(name: str, value: object, *, low: float, high: float) -> float:
    number = float("nan")
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = value  # an int may be too large for a float
    elif isinstance(value, Real):  # NumPy's
        number = float(value)
    if not low <= number <= high:  # false for NaN
        raise ValidationError(
            f"{name} must be a number from {low:g} to {high:g}, not {_shown(value)}.",
            param=name,
            limit=high,
        )
    return float(number)


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > MAX_SEED.bit_length() + 1:
        return "a number that large"  # Python refuses to write out the largest ones
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _stop_texts(value: object) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValidationError("stop must be a text or a list of texts.", param="stop")
    if len(texts) > MAX_STOP_STRINGS:
        raise ValidationError(
            f"stop holds {len(texts)} texts; at most {MAX_STOP_STRINGS} are allowed.",
            param="stop",
            limit=MAX_STOP_STRINGS,
        )
    if any(not text or len(text) > MAX_STOP_LENGTH for text in texts):
        raise ValidationError(
            f"Each stop text must have 1 to {MAX_STOP_LENGTH} characters.",
            param="stop",
            limit=MAX_STOP_LENGTH,
        )
    return tuple(texts)


def _biases(value: object) -> dict[int, float]:
    if not isinstance(value, Mapping) or len(value) > MAX_LOGIT_BIASES:
        raise ValidationError(
            f"logit_bias must be a mapping of at most {MAX_LOGIT_BIASES} token ids to numbers.",
            param="logit_bias",
            limit=MAX_LOGIT_BIASES,
        )
    return {
        whole_number_between("logit_bias", token, low=0, high=2**31 - 1): _number_between(
            "logit_bias", bias, low=-_LARGEST_BIAS, high=_LARGEST_BIAS
        )
        for token, bias in value.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt to continue.

    Attributes:
        request_id: unique among the requests an engine works on.
        arrival: `time.monotonic()` in seconds when it reached the engine's process.
        cache_salt: only requests with the same salt share computed prefixes, so that nobody can find out by
            timing what others have asked.
        tenant: for whom it is; tenants share the engine by weight, however many requests each of them sends.
        weight: the tenant's, 1 to 32: with twice the weight of another it gets twice the tokens.
        priority: among the requests of its tenant the lower number comes first, from -1000 to 1000.

    Raises:
        ValidationError: weight or priority is out of range; details hold param and limit.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    arrival: float = field(default_factory=time.monotonic)
    cache_salt: str = ""
    tenant: str = ""
    weight: int = 1
    priority: int = 0

    def __post_init__(self) -> None:
        whole_number_between("weight", self.weight, low=1, high=MAX_WEIGHT)
        whole_number_between("priority", self.priority, low=-MAX_PRIORITY, high=MAX_PRIORITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """One token and how probable the model found it.

    Attributes:
        token: as the vocabulary writes it.
        spelling: what it adds to the text in UTF-8, perhaps half a character; None for a special token.
        logprob: None for the first token of a prompt: nothing stands before it.
    """

    token_id: int
    token: str
    spelling: bytes | None
    logprob: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredToken:
    """A token of an answer, or of an echoed prompt, with the most likely ones of its place in order."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOutput:
    """What a step, or several that were read together, added to one request; the last has a finish reason.

    Attributes:
        text: the new text; empty while it is held back (part of a stop text, or an unfinished character).
        token_ids: the new tokens, the end-of-text token included.
        completion_tokens: new tokens so far, this output included.
        compute_seconds: the request's share of all steps it took part in, so far.
        queue_seconds: from arrival to its first step.
        peak_kv_bytes: the most key-value memory it held, shared blocks included.
        cached_tokens: tokens of the prompt that earlier requests had computed.
        error: for finish reason "error": what happened.
        retry_after: for a request that had to wait too long and was not begun: seconds until it may be tried
            again.
        logprobs: if asked for, the tokens which `text` shows, at least in part: joined over an answer they
            spell its text. The token that ends it is not among them.
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
    cached_tokens: int = 0
    error: str | None = None
    retry_after: float | None = None
    logprobs: tuple[ScoredToken, ...] = ()

    def to_error(self) -> BitNetServiceError:
        """Return what is raised for finish reason "error"."""
        message = self.error or "The generation failed."
        if self.retry_after is None:
            return ProcessingError(message)
        return QueueFullError(message, retry_after=self.retry_after)

    @property
    def goes_on(self) -> bool:
        """Whether it is part of an answer, and not how one broke off."""
        return self.finish_reason not in {"error", "abort"}


def join_outputs(outputs: Sequence[TokenOutput]) -> TokenOutput:
    """Return outputs of one request that follow one another as one: all their tokens, the last one's figures.

    What a reader that fell behind gets, so that it catches up.
    """
    if len(outputs) == 1:
        return outputs[0]
    return replace(
        outputs[-1],
        text="".join(each.text for each in outputs),
        token_ids=tuple(token for each in outputs for token in each.token_ids),
        logprobs=tuple(token for each in outputs for token in each.logprobs),
    )


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
