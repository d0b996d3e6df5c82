"""The next token: penalties, the random number of this request at this place, and the kernel's choice."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels import cpu

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

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


def choose_tokens(
    logits: list[NDArray[np.float32]], sequences: list[Sequence], *, threads: int = 1
) -> list[int | None]:
    """Choose the next token of each sequence from its logits [V].

    None where the logits are not finite: a sampled token would be meaningless.
    """
    asked = [sequence.request.sampling for sequence in sequences]
    penalised = [
        penalise(row, sequence.counts, presence=each.presence_penalty, frequency=each.frequency_penalty)
        for row, sequence, each in zip(logits, sequences, asked, strict=True)
    ]
    tokens = cpu.sample_rows(
        penalised,
        temperature=[each.temperature for each in asked],
        top_k=[each.top_k for each in asked],
        top_p=[each.top_p for each in asked],
        min_p=[each.min_p for each in asked],
        random=[
            uniform(sequence.seed, counter=sequence.num_generated) if each.temperature else 0.0
            for sequence, each in zip(sequences, asked, strict=True)
        ],
        threads=threads,
    )
    return [None if token < 0 else token for token in tokens]
