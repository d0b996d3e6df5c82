"""Which token follows by its logits, and how probable it is; twins are in `tritium.kernels.reference`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.errors import ProcessingError
from tritium.kernels import _native
from tritium.kernels.checks import refuses_bad_arrays
from tritium.kernels.device import use_detected_isa

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

use_detected_isa()


@refuses_bad_arrays
def sample(
    logits: NDArray[np.float32],
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    random: float,
) -> tuple[int, float]:
    """Draws a token id from logits float32 [V]; returns it with its log-probability under softmax(logits).

    Filters apply in the order temperature, top_k (0: all), top_p, min_p. Temperature 0 takes the largest
    logit, the lowest id among equals. A logit of -inf is never drawn.

    Args:
        logits: float32 [V].
        temperature: at least 0.
        top_k: how many of the most probable tokens to keep.
        top_p: keep the most probable tokens until their share reaches this.
        min_p: keep tokens at least this probable relative to the most probable one.
        random: a number in [0, 1) that decides the draw.

    Raises:
        ProcessingError: the logits hold NaN or +inf, or nothing but -inf.
        ValidationError: a parameter out of range.
    """
    token, logprob = _native.sample(logits, temperature, top_k, top_p, min_p, random)
    if token < 0:
        raise ProcessingError("The logits hold NaN or infinity: the model's output cannot be sampled.")
    return token, logprob


@refuses_bad_arrays
def sample_rows(
    logits: list[NDArray[np.float32]],
    *,
    temperature: list[float],
    top_k: list[int],
    top_p: list[float],
    min_p: list[float],
    random: list[float],
    allowed: list[NDArray[np.uint8] | None] | None = None,
    threads: int = 1,
) -> list[int]:
    """Draws one token id from each row of logits float32 [V], as `sample` does with the row's parameters.

    A row that is not finite everywhere gives -1, and so does one of which no token is allowed.

    Args:
        logits: one float32 [V] for each row.
        temperature: and the others as for `sample`, one for each row.
        top_k: see `sample`.
        top_p: see `sample`.
        min_p: see `sample`.
        random: see `sample`.
        allowed: for each row the tokens to choose from, one bit each, the lowest bit of a byte first, as
            uint8 [at least V / 8]; None for all of them.
        threads: how many may work at once.

    Raises:
        ValidationError: a parameter out of range, or not one for each row.
    """
    masks: list[NDArray[np.uint8] | None] = [None] * len(logits) if allowed is None else allowed
    return _native.sample_rows(logits, temperature, top_k, top_p, min_p, random, masks, threads)


@refuses_bad_arrays
def log_probabilities(
    logits: NDArray[np.float32], *, token: int, top: int
) -> tuple[float, list[tuple[int, float]]]:
    """Returns the log-probability of a token under softmax(logits), and the `top` best as (id, logprob).

    The most probable come first, the lowest id among equals.

    Raises:
        ProcessingError: the logits float32 [V] hold NaN or +inf, or nothing but -inf.
        ValidationError: the token is outside the vocabulary, or top is negative.
    """
    found = _native.log_probabilities(logits, token, top)
    if not found:
        raise ProcessingError("The logits hold NaN or infinity: the model's output has no probabilities.")
    return found[0][1], found[1:]
