"""What keeps callers away from a neighbour that fails, and from one that is slow."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tritium_platform.errors import CircuitOpenError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tritium_platform.values import Clock

SECOND = 1_000_000_000


class CircuitBreaker:
    """Refuses calls to a neighbour for a while after too many of the last ones failed.

    Closed: all calls pass. Open: none does until `open_seconds` are over. Half open: one probe at a time
    passes; its success closes the breaker, its failure opens it again.
    """

    def __init__(
        self,
        *,
        neighbour: str,
        clock: Clock,
        window: int = 20,
        min_failures: int = 5,
        failure_share: float = 0.5,
        open_seconds: float = 10.0,
    ) -> None:
        self._neighbour = neighbour
        self._clock = clock
        self._outcomes: deque[bool] = deque(maxlen=window)
        self._min_failures = min_failures
        self._failure_share = failure_share
        self._open_nanoseconds = int(open_seconds * SECOND)
        self._opened_at: int | None = None
        self._is_probing = False

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`."""
        if self._opened_at is None:
            return "closed"
        return "open" if self._wait() > 0 else "half_open"

    def enter(self) -> None:
        """Let a call pass or raise CircuitOpenError; after it, call `succeeded`, `failed` or `abandoned`."""
        if self._opened_at is None:
            return
        wait = self._wait()
        if wait > 0 or self._is_probing:
            raise CircuitOpenError(neighbour=self._neighbour, retry_after=max(1, math.ceil(wait / SECOND)))
        self._is_probing = True

    def succeeded(self) -> None:
        """Note that the call reached the neighbour and got an answer."""
        if self._is_probing:
            self._outcomes.clear()
            self._opened_at = None
        self._is_probing = False
        self._outcomes.append(True)

    def failed(self) -> None:
        """Note that the neighbour failed."""
        self._outcomes.append(False)
        failures = self._outcomes.count(False)
        share = failures / len(self._outcomes)
        if self._is_probing or (failures >= self._min_failures and share >= self._failure_share):
            self._opened_at = self._clock.monotonic_nanoseconds()
        self._is_probing = False

    def abandoned(self) -> None:
        """Note that the call ended without telling anything about the neighbour."""
        self._is_probing = False

    def _wait(self) -> int:
        if self._opened_at is None:
            return 0
        return self._opened_at + self._open_nanoseconds - self._clock.monotonic_nanoseconds()


class Bulkhead:
    """Lets so many calls to a neighbour run at a time, so that a slow one cannot take everything."""

    def __init__(self, *, neighbour: str, places: int) -> None:
        self._neighbour = neighbour
        self._places = asyncio.Semaphore(places)

    @asynccontextmanager
    async def place(self, *, seconds: float) -> AsyncIterator[None]:
        """Wait for a place; OverloadedError if none is free in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._places.acquire()
        except TimeoutError:
            raise OverloadedError(f"Too many calls to {self._neighbour} run already.") from None
        try:
            yield
        finally:
            self._places.release()
