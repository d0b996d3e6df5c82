"""Claims that wait, in the order in which they shall run."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Generic

from tritium.engine.turns import AnyClaim

if TYPE_CHECKING:
    from collections.abc import Callable


class WaitingLine(Generic[AnyClaim]):
    """Claims sorted by a key that is unique, and never changes while they wait."""

    def __init__(self, key: Callable[[AnyClaim], tuple[float, ...]]) -> None:
        self._key = key
        self._claims: list[AnyClaim] = []

    def __len__(self) -> int:
        return len(self._claims)

    @property
    def first(self) -> AnyClaim | None:
        """Whoever runs next; None if nobody waits."""
        return self._claims[0] if self._claims else None

    def add(self, claim: AnyClaim) -> None:
        """Put a claim in its place."""
        insort(self._claims, claim, key=self._key)

    def discard(self, claim: AnyClaim) -> bool:
        """Take a claim out; False if it does not wait here."""
        place = bisect_left(self._claims, self._key(claim), key=self._key)
        is_here = place < len(self._claims) and self._claims[place] is claim
        if is_here:
            del self._claims[place]
        return is_here
