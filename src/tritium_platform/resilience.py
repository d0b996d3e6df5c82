"""Calls that leave the process: a bulkhead, a deadline, retries with full jitter out of a budget, a breaker.

The order is bulkhead, then breaker, then retry, then timeout, then the call. Only what may run twice may be
retried: that is the caller's promise. Clock and randomness are arguments, so that a simulation can drive it.
"""

from __future__ import annotations

import asyncio
import errno
import math
import random
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from tritium_platform.errors import (
    BitNetServiceError,
    CircuitOpenError,
    DeadlineExceededError,
    ErrorCategory,
    OverloadedError,
    RetriesExhaustedError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tritium_platform.values import Clock

Result = TypeVar("Result")
SECOND = 1_000_000_000
RETRIED = frozenset({ErrorCategory.TRANSIENT, ErrorCategory.RATE_LIMITED})
EXHAUSTED = {errno.ENOMEM, errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EDQUOT}


class RandomSource(Protocol):
    """Where jitter comes from."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number between a and b."""
        ...


def classify_error(error: BaseException) -> ErrorCategory:
    """Say what a caller can expect of a second attempt after any error."""
    if isinstance(error, BitNetServiceError):
        return error.category
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in EXHAUSTED):
        return ErrorCategory.RESOURCE_EXHAUSTED
    if isinstance(error, (TimeoutError, ConnectionError, asyncio.IncompleteReadError)):
        return ErrorCategory.TRANSIENT
    if isinstance(error, (KeyboardInterrupt, SystemExit, asyncio.CancelledError)):
        return ErrorCategory.PERMANENT
    if isinstance(error, (ValueError, TypeError, LookupError, PermissionError, FileNotFoundError)):
        return ErrorCategory.PERMANENT
    return ErrorCategory.SYSTEM_CRITICAL


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how fast to try again; times are seconds."""

    max_attempts: int = 4
    base_delay: float = 0.1
    max_delay: float = 10.0
    attempt_seconds: float = 10.0

    def backoff(self, attempt: int, *, randomness: RandomSource) -> float:
        """Return the wait after failed attempt 1, 2 ...: uniform from 0 to a ceiling that doubles."""
        ceiling = min(self.max_delay, self.base_delay * 2 ** min(attempt - 1, 60))
        return randomness.uniform(0.0, ceiling)


class RetryBudget:
    """A bucket of retries that successes fill slowly: in an outage they add a tenth to the load, no multiple.

    Starts with `capacity` retries; every `successes_per_retry` successes bring one back.
    """

    def __init__(self, *, capacity: int = 100, successes_per_retry: int = 10) -> None:
        self._cost = successes_per_retry
        self._capacity = capacity * successes_per_retry
        self._balance = self._capacity

    def refill(self) -> None:
        """Count a success."""
        self._balance = min(self._capacity, self._balance + 1)

    def take(self) -> bool:
        """Take one retry; False if none is left."""
        if self._balance < self._cost:
            return False
        self._balance -= self._cost
        return True


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

    async def call(self, operation: Callable[[Deadline], Awaitable[Result]], *, deadline: Deadline) -> Result:
        """Run an operation that may run twice; it gets the deadline of its attempt to hand down.

        Raises:
            CircuitOpenError: the neighbour gets a pause.
            OverloadedError: no place was free in time.
            DeadlineExceededError: the time was over before an answer came.
            RetriesExhaustedError: every attempt failed; the last failure is the cause.
            Exception: what the operation raised, if another attempt could not help.
        """
        if self._bulkhead is None:
            return await self._call(operation, deadline=deadline)
        async with self._bulkhead.place(seconds=deadline.remaining(self._clock)):
            return await self._call(operation, deadline=deadline)

    async def _call(
        self, operation: Callable[[Deadline], Awaitable[Result]], *, deadline: Deadline
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
                if classify_error(error) not in RETRIED:
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
