"""What is done when memory becomes short: one measure more at a time, and back one at a time."""

from __future__ import annotations

from enum import IntEnum


class Rung(IntEnum):
    """What is done at the most; each rung does what those below it do."""

    CALM = 0
    EVICT_CACHES = 1  # prefixes nobody uses are forgotten, their memory is given back
    SHRINK = 2  # fewer sequences share a step of fewer tokens; who has no place any more waits
    REFUSE = 3  # new requests are refused while others run


class PressureLadder:
    """Climbs while pressure is high and descends when it has been low for a while.

    Between low and high it stays where it is, so that what a rung has won does not at once undo it.

    Args:
        high: from this pressure on it climbs, one rung for each `climb_seconds`.
        low: below this pressure for `calm_seconds` it descends one rung, and so on.
    """

    def __init__(
        self, *, high: float = 0.92, low: float = 0.85, climb_seconds: float = 1.0, calm_seconds: float = 10.0
    ) -> None:
        self.high = high
        self.rung = Rung.CALM
        self._low = low
        self._climb_seconds = climb_seconds
        self._calm_seconds = calm_seconds
        self._changed_at: float | None = None
        self._low_since: float | None = None

    def observe(self, pressure: float, now: float) -> bool:
        """Take a measurement at a moment in seconds; return whether the rung has changed."""
        if pressure >= self._low:
            self._low_since = None
        elif self._low_since is None:
            self._low_since = now
        before = self.rung
        if pressure >= self.high:
            self._climb(now)
        elif self._low_since is not None and now - self._low_since >= self._calm_seconds:
            self.rung = Rung(max(0, self.rung - 1))
            self._low_since = now
        if self.rung is not before:
            self._changed_at = now
        return self.rung is not before

    def _climb(self, now: float) -> None:
        if self._changed_at is None or now - self._changed_at >= self._climb_seconds:
            self.rung = Rung(min(Rung.REFUSE, self.rung + 1))
