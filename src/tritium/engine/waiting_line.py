"""Sequences that wait, in the order in which they shall run."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium.engine.sequence import Sequence


class WaitingLine:
    """Sequences sorted by a key that is unique, and never changes while they wait."""

    def __init__(self, key: Callable[[Sequence], tuple[float, ...]]) -> None:
        self._key = key
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def first(self) -> Sequence | None:
        """Whoever runs next; None if nobody waits."""
        return self._sequences[0] if self._sequences else None

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in its place."""
        insort(self._sequences, sequence, key=self._key)

    def discard(self, sequence: Sequence) -> bool:
        """Take a sequence out; False if it does not wait here."""
        place = bisect_left(self._sequences, self._key(sequence), key=self._key)
        is_here = place < len(self._sequences) and self._sequences[place] is sequence
        if is_here:
            del self._sequences[place]
        return is_here
