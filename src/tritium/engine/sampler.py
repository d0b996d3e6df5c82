"""The next token: penalties, the random number of this request at this place, and the kernel's choice."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ProcessingError
from tritium.kernels import cpu

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tritium.engine.request import SamplingParams
    from tritium.engine.sequence import Sequence

_SIGN_64 = 2**64


def uniform(seed: int, *, counter: int) -> float:
    """Return a number in [0, 1) that depends on seed and counter alone.

    No state is kept between draws, so they do not depend on who else is in the batch, or on how often a
    request was preempted.
    """
    digest = hashlib.blake2b(struct.pack("<QQ", seed % _SIGN_64, counter), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53


def penalise(
    logits: NDArray[np.float32], counts: Mapping[int, int], *, presence: float, frequency: float
) -> NDArray[np.float32]:
    """Return logits [V], lower for tokens the answer holds: presence once, frequency per occurrence."""
    if not counts or not (presence or frequency):
        return logits
    tokens = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
    occurrences = np.fromiter(counts.values(), dtype=np.float32, count=len(counts))
    penalised = logits.copy()
    penalised[tokens] -= np.float32(presence) + np.float32(frequency) * occurrences
    return penalised


def choose_token(logits: NDArray[np.float32], sequence: Sequence) -> int:
    """Choose the next token of a sequence from its logits [V].

    Raises:
        ProcessingError: the logits are not finite: a sampled token would be meaningless.
    """
    if not np.isfinite(logits).all():
        raise ProcessingError("The model produced numbers that are not finite for this request.")
    sampling: SamplingParams = sequence.request.sampling
    logits = penalise(
        logits, sequence.counts, presence=sampling.presence_penalty, frequency=sampling.frequency_penalty
    )
    token, _ = cpu.sample(
        logits,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        random=uniform(sequence.seed, counter=sequence.num_generated),
    )
    return int(token)
