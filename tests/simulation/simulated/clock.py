"""The clock of a simulated machine: as its loop's time, but for what somebody set it to."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
MICROSECOND = 1000
SECOND = 1_000_000_000


class Calendar:
    """How far the wall clock is ahead of the time of the world; it outlives a process."""

    def __init__(self):
        self.ahead = timedelta()

    def jump(self, by):
        """Set the wall clock forward or back."""
        self.ahead += by


class WorldClock:
    """Reading it takes a microsecond, so that no two things happen at the same instant."""

    def __init__(self, loop, calendar):
        self._loop = loop
        self._calendar = calendar
        self._reads = 0

    def now(self):
        self._reads += 1
        passed = timedelta(seconds=self._loop.time(), microseconds=self._reads)
        return START + passed + self._calendar.ahead

    def monotonic_nanoseconds(self):
        self._reads += 1
        return int(self._loop.time() * SECOND) + self._reads * MICROSECOND

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)
