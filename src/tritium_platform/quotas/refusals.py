"""Refusals in words: which limit it was, how much of it is used, and when to come again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tritium_platform.errors import QuotaExceededError, RateLimitExceededError, RequestTooLargeError
from tritium_platform.quotas.limiter import CONCURRENCY
from tritium_platform.quotas.ratelimit import SECOND
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from datetime import datetime

    from tritium_platform.quotas.limiter import Refusal
    from tritium_platform.quotas.model import QuotaCounter

# A request ends when it ends; a second is the shortest wait that can be written in Retry-After.
CONCURRENCY_RETRY_SECONDS = 1


def refused_by_limit(refusal: Refusal, *, at: datetime) -> RequestTooLargeError | RateLimitExceededError:
    """Return the error of a limiter's refusal."""
    if refusal.wait is None:
        return RequestTooLargeError(
            limit_name=refusal.limit_name, limit=refusal.limit, current=refusal.current
        )
    is_place = refusal.limit_name == CONCURRENCY
    seconds = CONCURRENCY_RETRY_SECONDS if is_place else -(-refusal.wait // SECOND)
    return RateLimitExceededError(
        limit_name=refusal.limit_name,
        limit=refusal.limit,
        current=refusal.current,
        reset_time=at + timedelta(seconds=seconds),
        retry_after=seconds,
    )


def refused_by_month(counter: QuotaCounter, *, own: int, at: datetime) -> QuotaExceededError:
    """Return the error of a month that is spent; `own` of what is held belongs to the refused one."""
    reset_time = CalendarMonth.of(at).end
    return QuotaExceededError(
        limit_name="requests per month",
        limit=counter.limit,
        current=counter.used + counter.held - own,
        reset_time=reset_time,
        retry_after=-((at - reset_time) // timedelta(seconds=1)),
    )
