"""First come, first served: whoever asks most gets most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.engine.waiting_line import WaitingLine

if TYPE_CHECKING:
    from tritium.engine.sequence import Sequence


class FirstComeFirstServed:
    """A `SchedulingPolicy` that looks at nothing but the arrival."""

    def __init__(self) -> None:
        self._line = WaitingLine(self.rank)

    def __len__(self) -> int:
        return len(self._line)

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence in line."""
        self._line.add(sequence)

    def next(self) -> Sequence | None:
        """Return the oldest sequence that waits."""
        return self._line.first

    def start(self, sequence: Sequence) -> None:
        """Take a sequence out of the line: it runs."""
        self._line.discard(sequence)

    def stop(self, sequence: Sequence) -> None:
        """Put a sequence back in its old place: it lost its blocks."""
        self._line.add(sequence)

    def charge(self, sequence: Sequence) -> None:
        """Nobody is charged here."""

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence."""
        self._line.discard(sequence)

    def rank(self, sequence: Sequence) -> tuple[float, ...]:
        """Return the arrival, and the order of acceptance where two arrived in the same instant."""
        return (sequence.request.arrival, sequence.serial)
