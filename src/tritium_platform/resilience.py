"""Calls that leave the process: a bulkhead, a deadline, retries with full jitter out of a budget, a breaker.

The order is bulkhead, then breaker, then retry, then timeout, then the call. Only what may run twice may be
retried: that is the caller's promise. What exhausts a resource is tried smaller, where the caller knows what
smaller is. Clock and randomness are arguments, so that a simulation can drive it.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tritium_platform.breaker import SECOND
from tritium_platform.errors import (
    BitNetServiceError,
    DeadlineExceededError,
    ErrorCategory,
    RetriesExhaustedError,
)
from tritium_platform.retry import RETRIED, RetryBudget, RetryPolicy, classify_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tritium_platform.breaker import Bulkhead, CircuitBreaker
    from tritium_platform.retry import RandomSource
    from tritium_platform.values import Clock

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant of the monotonic clock; handed down a call, never extended."""

    nanoseconds: int

    @classmethod
    def after(cls, clock: Clock, *, seconds: float) -> Deadline:
        """Return the deadline that many seconds from now."""
        return cls(clock.monotonic_nanoseconds() + int(seconds * SECOND))

    def remaining(self, clock: Clock) -> float:
        """Return the seconds left, 0 if none are."""
        return max(0.0, (self.nanoseconds - clock.monotonic_nanoseconds()) / SECOND)

    def shortened(self, clock: Clock, *, seconds: float) -> Deadline:
        """Return this deadline, or an earlier one that many seconds from now."""
        return Deadline(min(self.nanoseconds, Deadline.after(clock, seconds=seconds).nanoseconds))


class ResilientCaller:
    """Calls one neighbour with a bulkhead, a breaker, retries and deadlines.

    Args:
        neighbour: its name, for messages.
        clock: the time.
        policy: how often and how fast to try again.
        budget: shared by everybody who calls this neighbour.
        breaker: shared by everybody who calls this neighbour; None: no call is ever refused.
        bulkhead: shared by everybody who calls this neighbour; None: any number of calls runs at a time.
        randomness: where jitter comes from.
    """

    def __init__(
        self,
        *,
        neighbour: str,
        clock: Clock,
        policy: RetryPolicy | None = None,
        budget: RetryBudget | None = None,
        breaker: CircuitBreaker | None = None,
        bulkhead: Bulkhead | None = None,
        randomness: RandomSource | None = None,
    ) -> None:
        self._neighbour = neighbour
        self._clock = clock
        self._policy = policy or RetryPolicy()
        self._budget = budget or RetryBudget()
        self._breaker = breaker
        self._bulkhead = bulkhead
        # Jitter spreads load; nobody gains by guessing it.
        self._randomness = randomness or random.Random()  # noqa: S311 - no secret

    async def call(
        self,
        operation: Callable[[Deadline], Awaitable[Result]],
        *,
        deadline: Deadline,
        shrink: Callable[[], bool] | None = None,
    ) -> Result:
        """Run an operation that may run twice; it gets the deadline of its attempt to hand down.

        `shrink` is called when an attempt found a resource exhausted: it makes the operation smaller and
        returns True, or False if it is as small as can be. What is smaller is tried at once, and out of no
        budget: it asks for less than what was tried before.

        Raises:
            CircuitOpenError: the neighbour gets a pause.
            OverloadedError: no place was free in time.
            DeadlineExceededError: the time was over before an answer came.
            RetriesExhaustedError: every attempt failed; the last failure is the cause.
            Exception: what the operation raised, if another attempt could not help.
        """
        if self._bulkhead is None:
            return await self._call(operation, deadline=deadline, shrink=shrink)
        async with self._bulkhead.place(seconds=deadline.remaining(self._clock)):
            return await self._call(operation, deadline=deadline, shrink=shrink)

    async def _call(
        self,
        operation: Callable[[Deadline], Awaitable[Result]],
        *,
        deadline: Deadline,
        shrink: Callable[[], bool] | None,
    ) -> Result:
        attempt = 0
        while True:
            attempt += 1
            if deadline.remaining(self._clock) <= 0:
                raise DeadlineExceededError(operation=self._neighbour)
            if self._breaker is not None:
                self._breaker.enter()
            try:
                return await self._attempt(operation, deadline=deadline)
            except Exception as error:
                category = classify_error(error)
                if category is ErrorCategory.RESOURCE_EXHAUSTED and shrink is not None and shrink():
                    attempt = 0
                    continue
                if category not in RETRIED:
                    raise
                await self._wait(error, attempt=attempt, deadline=deadline)

    async def _attempt(
        self, operation: Callable[[Deadline], Awaitable[Result]], *, deadline: Deadline
    ) -> Result:
        own = deadline.shortened(self._clock, seconds=self._policy.attempt_seconds)
        try:
            async with asyncio.timeout(own.remaining(self._clock)):
                result = await operation(own)
        except Exception as error:
            self._note(error)
            raise
        except BaseException:
            if self._breaker is not None:
                self._breaker.abandoned()
            raise
        if self._breaker is not None:
            self._breaker.succeeded()
        self._budget.refill()
        return result

    def _note(self, error: Exception) -> None:
        """Tell the breaker: a wrong request or a limit is an answer, and no sign of a broken neighbour."""
        if self._breaker is None:
            return
        if classify_error(error) in {ErrorCategory.TRANSIENT, ErrorCategory.SYSTEM_CRITICAL}:
            self._breaker.failed()
        else:
            self._breaker.succeeded()

    async def _wait(self, error: Exception, *, attempt: int, deadline: Deadline) -> None:
        """Wait before the next attempt, or raise because there will be none."""
        if attempt >= self._policy.max_attempts or not self._budget.take():
            raise RetriesExhaustedError(operation=self._neighbour, attempts=attempt) from error
        wait = self._policy.backoff(attempt, randomness=self._randomness)
        wait = max(wait, _requested_wait(error))
        if wait >= deadline.remaining(self._clock):
            raise DeadlineExceededError(operation=self._neighbour) from error
        await self._clock.sleep(wait)


def _requested_wait(error: Exception) -> float:
    """Return the seconds that the neighbour asked us to wait."""
    asked = error.details.get("retry_after") if isinstance(error, BitNetServiceError) else None
    return float(asked) if isinstance(asked, (int, float)) else 0.0
