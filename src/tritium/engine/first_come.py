"""First come, first served: whoever asks most gets most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from tritium.engine.turns import AnyClaim
from tritium.engine.waiting_line import WaitingLine

if TYPE_CHECKING:
    from collections.abc import Sequence


class FirstComeFirstServed(Generic[AnyClaim]):
    """A `SchedulingPolicy` that looks at nothing but the arrival."""

    is_shared = False

    def __init__(self) -> None:
        self._line: WaitingLine[AnyClaim] = WaitingLine(self.rank)

    def __len__(self) -> int:
        return len(self._line)

    def add(self, claim: AnyClaim) -> None:
        """Put a new claim in line."""
        self._line.add(claim)

    def next(self) -> AnyClaim | None:
        """Return the oldest claim that waits."""
        return self._line.first

    def start(self, claim: AnyClaim) -> None:
        """Take a claim out of the line: it runs."""
        self._line.discard(claim)

    def stop(self, claim: AnyClaim) -> None:
        """Put a claim back in its old place."""
        self._line.add(claim)

    def charge(self, claim: AnyClaim) -> None:
        """Nobody is charged here."""

    def remove(self, claim: AnyClaim) -> None:
        """Forget a claim."""
        self._line.discard(claim)

    def rank(self, claim: AnyClaim) -> tuple[float, ...]:
        """Return the arrival, and the order of acceptance where two arrived in the same instant."""
        return (claim.arrival, claim.serial)

    def gives_way(self, running: Sequence[AnyClaim]) -> AnyClaim | None:  # noqa: ARG002 - see the contract
        """Nobody gives way here."""
        return None

    def has_more(self, claim: AnyClaim) -> bool:  # noqa: ARG002 - all are one tenant here
        """Return whether anybody waits."""
        return bool(self._line)
