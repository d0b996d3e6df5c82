"""The next token: penalties, biases, the random number of this request at this place, the kernel's choice."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ProcessingError
from tritium.kernels.sampling import sample_rows

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


def adjust(
    logits: NDArray[np.float32], counts: Mapping[int, int], sampling: SamplingParams
) -> NDArray[np.float32]:
    """Return logits [V] as the request wants them: lower for tokens the answer holds, then the biases added.

    The presence penalty counts once for a token, the frequency penalty per occurrence.
    """
    presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
    is_penalised = bool(counts) and bool(presence or frequency)
    if not is_penalised and not sampling.logit_bias:
        return logits
    adjusted = logits.copy()
    if is_penalised:
        tokens, occurrences = _columns(counts)
        adjusted[tokens] -= np.float32(presence) + np.float32(frequency) * occurrences
    if sampling.logit_bias:
        tokens, biases = _columns(sampling.logit_bias)
        adjusted[tokens] += biases
    return adjusted


def _columns(of_tokens: Mapping[int, float]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    tokens = np.fromiter(of_tokens.keys(), dtype=np.int64, count=len(of_tokens))
    return tokens, np.fromiter(of_tokens.values(), dtype=np.float32, count=len(of_tokens))


def choose_tokens(
    logits: list[NDArray[np.float32]], sequences: list[Sequence], *, threads: int = 1
) -> list[int | ProcessingError]:
    """Choose the next token of each sequence from its logits [V], or say why there is none.

    Penalties and biases come first, then the grammar's mask, temperature, top_k, top_p and min_p.
    """
    asked = [sequence.request.sampling for sequence in sequences]
    adjusted = [
        adjust(row, sequence.counts, each)
        for row, sequence, each in zip(logits, sequences, asked, strict=True)
    ]
    tokens = sample_rows(
        adjusted,
        temperature=[each.temperature for each in asked],
        top_k=[each.top_k for each in asked],
        top_p=[each.top_p for each in asked],
        min_p=[each.min_p for each in asked],
        random=[
            uniform(sequence.seed, counter=sequence.num_generated) if each.temperature else 0.0
            for sequence, each in zip(sequences, asked, strict=True)
        ],
        allowed=[sequence.grammar.mask() if sequence.grammar else None for sequence in sequences],
        threads=threads,
    )
    return [
        token if token >= 0 else _no_token(sequence)
        for token, sequence in zip(tokens, sequences, strict=True)
    ]


def _no_token(sequence: Sequence) -> ProcessingError:
    if sequence.grammar is not None and sequence.grammar.is_failed:
        return ProcessingError("The grammar grew too complex for its limits: make it simpler.")
    return ProcessingError("The model produced numbers that are not finite for this request.")
