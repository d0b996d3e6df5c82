"""Rate limits by the generic cell rate algorithm, in exact integer arithmetic.

A limit of n per minute is a bucket of n that refills evenly. Its whole state is one instant: the theoretical
arrival time, at which the bucket will be full again. Instants are nanoseconds times the limit, so that one
unit costs exactly 60e9 of them whatever the limit is: nothing is ever rounded in the state.
"""

from __future__ import annotations

from typing import NamedTuple

from tritium_platform.quotas.model import RateStatus

MINUTE = 60_000_000_000
SECOND = 1_000_000_000


class RateDecision(NamedTuple):
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
    arrival = arrival_after(amount, limit=limit, theoretical_arrival=theoretical_arrival, now=now)
    excess = arrival - (now + MINUTE) * limit
    if excess > 0:
        return RateDecision(False, wait=-(-excess // limit), theoretical_arrival=theoretical_arrival)
    return RateDecision(is_admitted=True, wait=0, theoretical_arrival=arrival)


def arrival_after(amount: int, *, limit: int, theoretical_arrival: int, now: int) -> int:
    """Return the state after an amount; it is admitted if this is at most `limit` times a minute from now."""
    return max(theoretical_arrival, now * limit) + amount * MINUTE


def rate_status(*, limit: int, theoretical_arrival: int, now: int) -> RateStatus:
    """Describe a bucket: whole units that fit now, seconds until it is full."""
    backlog = max(0, theoretical_arrival - now * limit)
    remaining = max(0, (limit * MINUTE - backlog) // MINUTE)
    return RateStatus(limit=limit, remaining=remaining, reset_seconds=backlog / max(limit, 1) / SECOND)


def carried_over(theoretical_arrival: int, *, kept_limit: int, limit: int, now: int) -> int:
    """Return the state of a bucket under another limit: the same number of units is missing from it.

    More than a whole bucket is never missing: of a state that says so (of another clock) that much is left.
    """
    missing = max(0, theoretical_arrival - now * kept_limit)
    return now * limit + min(missing, limit * MINUTE)
