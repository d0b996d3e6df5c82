"""Whether another attempt can help, after which wait, and how many all callers may make together."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from typing import Protocol

from tritium_platform.errors import BitNetServiceError, ErrorCategory

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
