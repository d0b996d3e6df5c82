"""Rate limits by the generic cell rate algorithm, in exact integer arithmetic.

A limit of n per minute is a bucket of n that refills evenly. Its whole state is one instant: the theoretical
arrival time, at which the bucket will be full again. Instants are nanoseconds times the limit, so that one
unit costs exactly 60e9 of them whatever the limit is: nothing is ever rounded in the state.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium_platform.quotas.model import RateStatus

if TYPE_CHECKING:
    from collections.abc import Hashable

MINUTE = 60_000_000_000
SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RateDecision:
    """Whether an amount is admitted; if not, in how many nanoseconds it will be (None: never)."""

    is_admitted: bool
    wait: int | None
    theoretical_arrival: int


def decide_rate(*, limit: int, amount: int, theoretical_arrival: int, now: int) -> RateDecision:
    """Decide one arrival.

    Args:
        limit: units per minute, and the size of the bucket.
        amount: units asked for.
        theoretical_arrival: the state, in nanoseconds times `limit`.
        now: nanoseconds.
    """
    if amount > limit:
        return RateDecision(is_admitted=False, wait=None, theoretical_arrival=theoretical_arrival)
    arrival = max(theoretical_arrival, now * limit) + amount * MINUTE
    excess = arrival - now * limit - limit * MINUTE
    if excess > 0:
        return RateDecision(False, wait=-(-excess // limit), theoretical_arrival=theoretical_arrival)
    return RateDecision(is_admitted=True, wait=0, theoretical_arrival=arrival)


def rate_status(*, limit: int, theoretical_arrival: int, now: int) -> RateStatus:
    """Describe a bucket: whole units that fit now, seconds until it is full."""
    backlog = max(0, theoretical_arrival - now * limit)
    remaining = max(0, (limit * MINUTE - backlog) // MINUTE)
    return RateStatus(limit=limit, remaining=remaining, reset_seconds=backlog / max(limit, 1) / SECOND)


class RateLimiter:
    """The buckets of one process; exact in it.

    A full bucket is the same as none, so that memory is bounded by dropping those.
    """

    def __init__(self, *, capacity: int = 100_000) -> None:
        self._capacity = capacity
        self._buckets: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()  # key -> (limit, arrival)

    def decide(self, key: Hashable, *, limit: int, amount: int, now: int) -> RateDecision:
        """Decide without taking anything; `take` takes."""
        return decide_rate(
            limit=limit, amount=amount, theoretical_arrival=self._arrival(key, limit=limit, now=now), now=now
        )

    def take(self, key: Hashable, *, limit: int, amount: int, now: int) -> RateDecision:
        """Take an amount if it is admitted."""
        decision = self.decide(key, limit=limit, amount=amount, now=now)
        if decision.is_admitted:
            self._keep(key, limit=limit, arrival=decision.theoretical_arrival, now=now)
        return decision

    def give_back(self, key: Hashable, *, limit: int, amount: int, now: int) -> None:
        """Return units that were taken and not needed; an arrival in the past is a full bucket, not more."""
        arrival = self._arrival(key, limit=limit, now=now) - amount * MINUTE
        self._keep(key, limit=limit, arrival=arrival, now=now)

    def status(self, key: Hashable, *, limit: int, now: int) -> RateStatus:
        """Describe a bucket as it is now."""
        return rate_status(limit=limit, theoretical_arrival=self._arrival(key, limit=limit, now=now), now=now)

    def _arrival(self, key: Hashable, *, limit: int, now: int) -> int:
        kept_limit, arrival = self._buckets.get(key, (limit, 0))
        if kept_limit != limit and kept_limit > 0:
            # The limit changed: the same number of units is missing from the bucket of the new size.
            missing = max(0, arrival - now * kept_limit)
            return now * limit + min(missing, limit * MINUTE)
        return arrival

    def _keep(self, key: Hashable, *, limit: int, arrival: int, now: int) -> None:
        self._buckets[key] = (limit, arrival)
        self._buckets.move_to_end(key)
        while len(self._buckets) > self._capacity and self._drop_oldest_full(now):
            pass

    def _drop_oldest_full(self, now: int) -> bool:
        """Drop the bucket that was used least recently if it is full again."""
        key, (limit, arrival) = next(iter(self._buckets.items()))
        if arrival > now * limit:
            return False
        del self._buckets[key]
        return True
