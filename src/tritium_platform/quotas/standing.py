"""Where a tenant stands with its rates: the numbers that decide; what they leave only for whoever asks."""

from __future__ import annotations

import msgspec

from tritium_platform.quotas.model import Allowance, RateStatus
from tritium_platform.quotas.ratelimit import carried_over, rate_status
from tritium_platform.tenancy.model import TierLimits


class Rates(msgspec.Struct, frozen=True, gc=False):
    """A tenant's two buckets: each a limit per minute, and the theoretical arrival time under it."""

    request_limit: int = 0
    request_arrival: int = 0
    token_limit: int = 0
    token_arrival: int = 0

    def under(self, limits: TierLimits, *, now: int) -> Rates:
        """Return them under the limits in force: from now on what is missing is refilled at their speed."""
        rate, amount = limits.requests_per_minute, limits.tokens_per_minute
        if (self.request_limit == rate and self.token_limit == amount) or self == FULL:
            return self
        return Rates(
            rate,
            carried_over(self.request_arrival, kept_limit=self.request_limit, limit=rate, now=now),
            amount,
            carried_over(self.token_arrival, kept_limit=self.token_limit, limit=amount, now=now),
        )

    def is_full(self, now: int) -> bool:
        """Tell whether nothing is missing from either bucket: then it is as if it were not kept."""
        return (
            self.request_arrival <= now * self.request_limit and self.token_arrival <= now * self.token_limit
        )


FULL = Rates()


class Standing(msgspec.Struct, frozen=True, gc=False):
    """A tenant's state at one moment: what is left of it is worked out for whoever asks.

    Attributes:
        rates: under the limits in force, or full.
        running: how many of its requests run.
        limits: the limits in force.
        now: nanoseconds of the monotonic clock.
    """

    rates: Rates
    running: int
    limits: TierLimits
    now: int

    @property
    def requests(self) -> RateStatus:
        """What is left of the rate of requests."""
        limit = self.limits.requests_per_minute
        return rate_status(limit=limit, theoretical_arrival=self.rates.request_arrival, now=self.now)

    @property
    def tokens(self) -> RateStatus:
        """What is left of the rate of tokens."""
        limit = self.limits.tokens_per_minute
        return rate_status(limit=limit, theoretical_arrival=self.rates.token_arrival, now=self.now)

    @property
    def concurrent(self) -> RateStatus:
        """How many requests more may run."""
        most = self.limits.max_concurrent_requests
        return RateStatus(most, max(0, most - self.running), reset_seconds=0.0)

    def allowance(self, *, month: RateStatus | None = None) -> Allowance:
        """Return what all limits leave."""
        return Allowance(requests=self.requests, tokens=self.tokens, concurrent=self.concurrent, month=month)
