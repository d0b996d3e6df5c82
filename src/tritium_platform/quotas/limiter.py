"""Rates and places: how fast a tenant's requests may come, and how many may run at one time.

One decision covers both rates and the places, so that a request takes all of them or nothing. It is a pure
function of the tenant's state; a `Limiter` keeps that state, in one process or among several.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tritium_platform.quotas.ratelimit import MINUTE, carried_over, decide_rate, rate_status

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.quotas.model import RateStatus
    from tritium_platform.tenancy.model import TierLimits

REQUEST_RATE = "requests per minute"
TOKEN_RATE = "tokens per minute"  # noqa: S105 - a name, not a secret
CONCURRENCY = "concurrent requests"
CAPACITY = 100_000


class Rates(NamedTuple):
    """A tenant's two buckets: each a limit per minute, and the theoretical arrival time under it."""

    request_limit: int = 0
    request_arrival: int = 0
    token_limit: int = 0
    token_arrival: int = 0

    def under(self, limits: TierLimits, *, now: int) -> Rates:
        """Return them under the limits in force: from now on what is missing is refilled at their speed."""
        wanted = (limits.requests_per_minute, limits.tokens_per_minute)
        if self == FULL or wanted == (self.request_limit, self.token_limit):
            return self
        kept = (self.request_limit, self.request_arrival), (self.token_limit, self.token_arrival)
        request_arrival, token_arrival = (
            carried_over(arrival, kept_limit=before, limit=limit, now=now)
            for (before, arrival), limit in zip(kept, wanted, strict=True)
        )
        return Rates(wanted[0], request_arrival, wanted[1], token_arrival)

    def is_full(self, now: int) -> bool:
        """Tell whether nothing is missing from either bucket: then it is as if it were not kept."""
        return (
            self.request_arrival <= now * self.request_limit and self.token_arrival <= now * self.token_limit
        )


FULL = Rates()


class Refusal(NamedTuple):
    """Why a request may not enter.

    Attributes:
        limit_name: which limit.
        limit: how much it is.
        current: what of it is used, or asked for if that is more than there ever is.
        wait: nanoseconds after which it may enter; 0 if nobody knows (a place), None if never.
    """

    limit_name: str
    limit: int
    current: int
    wait: int | None


class Standing(NamedTuple):
    """What a tenant has left: both rates, and how many of its requests run."""

    requests: RateStatus
    tokens: RateStatus
    running: int


class Limiter(Protocol):
    """Keeps the rates and running requests of tenants; every call is one atomic step among all that share it.

    `now` is the machine's monotonic clock in nanoseconds, the same for all of them.
    """

    def enter(
        self, tenant_id: UUID, *, limits: TierLimits, requests: int, tokens: int, now: int
    ) -> Standing | Refusal:
        """Take requests and tokens from the rates and a place for each request, and return what is left.

        If they do not fit, nothing is taken: the answer says why.

        Raises:
            OverloadedError: the state cannot be had at this moment; nobody is admitted without it.
        """

    def leave(self, tenant_id: UUID, *, requests: int, tokens: int = 0) -> None:
        """Give back places, and tokens that were not needed."""

    def standing(self, tenant_id: UUID, *, limits: TierLimits, now: int) -> Standing:
        """Return what is left of a tenant's limits."""

    def close(self) -> None:
        """Let go of it: places that were not given back come back now."""


def decide_entry(
    rates: Rates, *, running: int, limits: TierLimits, requests: int, tokens: int, now: int
) -> Rates | Refusal:
    """Return the rates after the entry of requests, or why they may not enter.

    Args:
        rates: under the limits in force.
        running: how many requests of the tenant run.
        limits: the limits in force.
        requests: how many want to enter, each to a place.
        tokens: how many they may use together.
        now: nanoseconds.
    """
    most = limits.max_concurrent_requests
    if running + requests > most:
        is_hopeless = requests > most
        return Refusal(CONCURRENCY, most, requests if is_hopeless else running, None if is_hopeless else 0)
    rate, amount = limits.requests_per_minute, limits.tokens_per_minute
    by_rate = decide_rate(limit=rate, amount=requests, theoretical_arrival=rates.request_arrival, now=now)
    by_tokens = decide_rate(limit=amount, amount=tokens, theoretical_arrival=rates.token_arrival, now=now)
    if by_rate.wait == by_tokens.wait == 0:
        return Rates(rate, by_rate.theoretical_arrival, amount, by_tokens.theoretical_arrival)
    if by_rate.wait is None:
        return Refusal(REQUEST_RATE, rate, requests, wait=None)
    if by_tokens.wait is None:
        return Refusal(TOKEN_RATE, amount, tokens, wait=None)
    if by_rate.wait >= by_tokens.wait:
        return Refusal(REQUEST_RATE, rate, rate, by_rate.wait)
    return Refusal(TOKEN_RATE, amount, amount, by_tokens.wait)


def without_tokens(rates: Rates, tokens: int) -> Rates:
    """Return the rates with tokens given back; an arrival in the past is a full bucket, not more."""
    return rates._replace(token_arrival=max(0, rates.token_arrival - tokens * MINUTE))


def standing_of(rates: Rates, *, running: int, limits: TierLimits, now: int) -> Standing:
    """Describe a tenant's state; the rates are under the limits in force."""
    rate, amount = limits.requests_per_minute, limits.tokens_per_minute
    return Standing(
        rate_status(limit=rate, theoretical_arrival=rates.request_arrival, now=now),
        rate_status(limit=amount, theoretical_arrival=rates.token_arrival, now=now),
        running,
    )


class LocalLimiter:
    """The limits of one process. A full bucket is the same as none: the oldest go beyond a capacity."""

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._rates: OrderedDict[UUID, Rates] = OrderedDict()
        self._running: Counter[UUID] = Counter()

    def enter(
        self, tenant_id: UUID, *, limits: TierLimits, requests: int, tokens: int, now: int
    ) -> Standing | Refusal:
        """Take requests, tokens and places and return what is left, or say why not."""
        kept, running = self._rates.get(tenant_id, FULL), self._running.get(tenant_id, 0)
        rates = kept.under(limits, now=now)
        decided = decide_entry(
            rates, running=running, limits=limits, requests=requests, tokens=tokens, now=now
        )
        if isinstance(decided, Refusal):
            if rates is not kept:
                self._rates[tenant_id] = rates
            return decided
        self._rates[tenant_id] = decided
        self._rates.move_to_end(tenant_id)
        self._running[tenant_id] += requests
        while len(self._rates) > self._capacity and self._drop_oldest_full(now):
            pass
        return standing_of(decided, running=running + requests, limits=limits, now=now)

    def leave(self, tenant_id: UUID, *, requests: int, tokens: int = 0) -> None:
        """Give back places, and tokens that were not needed."""
        rates = self._rates.get(tenant_id)
        if rates is not None and tokens:
            self._rates[tenant_id] = without_tokens(rates, tokens)
        self._leave(tenant_id, requests)

    def standing(self, tenant_id: UUID, *, limits: TierLimits, now: int) -> Standing:
        """Return what is left of a tenant's limits."""
        rates, running = self._rates.get(tenant_id, FULL), self._running.get(tenant_id, 0)
        return standing_of(rates.under(limits, now=now), running=running, limits=limits, now=now)

    def close(self) -> None:
        """Forget everything."""
        self._rates.clear()
        self._running.clear()

    def _leave(self, tenant_id: UUID, places: int) -> None:
        self._running[tenant_id] -= places
        if not self._running[tenant_id]:
            del self._running[tenant_id]

    def _drop_oldest_full(self, now: int) -> bool:
        """Drop the buckets that were used least recently if they are full again."""
        tenant_id, rates = next(iter(self._rates.items()))
        if not rates.is_full(now):
            return False
        del self._rates[tenant_id]
        return True
