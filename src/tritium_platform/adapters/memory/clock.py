"""A clock that moves only when it is told to."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

SECOND = 1_000_000_000


class ManualClock:
    """Time for tests and simulation: `sleep` advances it at once."""

    def __init__(self, start: datetime = datetime(2026, 11, 23, 12, tzinfo=UTC)) -> None:
        self._start = start
        self._nanoseconds = 0

    def now(self) -> datetime:
        """Return the instant to which the clock was moved."""
        return self._start + timedelta(microseconds=self._nanoseconds // 1000)

    def monotonic_nanoseconds(self) -> int:
        """Return the nanoseconds since the start."""
        return self._nanoseconds

    async def sleep(self, seconds: float) -> None:
        """Advance by that much and let other tasks run."""
        self.advance(seconds=seconds)
        await asyncio.sleep(0)

    def advance(self, *, seconds: float = 0, nanoseconds: int = 0) -> None:
        """Move forward."""
        self._nanoseconds += round(seconds * SECOND) + nanoseconds
