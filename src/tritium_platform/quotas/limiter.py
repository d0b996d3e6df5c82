"""Rates and places: how fast a tenant's requests may come, and how many may run at one time.

One decision covers both rates and the places, so that a request takes all of them or nothing. It is a pure
function of the tenant's state; a `Limiter` keeps that state, in one process or among several.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tritium_platform.quotas.ratelimit import MINUTE, arrival_after, decide_rate
from tritium_platform.quotas.standing import FULL, Rates, Standing

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.tenancy.model import TierLimits

REQUEST_RATE = "requests per minute"
TOKEN_RATE = "tokens per minute"  # noqa: S105 - a name, not a secret
CONCURRENCY = "concurrent requests"
CAPACITY = 100_000


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

    def owe(self, tenant_id: UUID, *, requests: int, tokens: int = 0) -> None:
        """Give back places and tokens with whatever step comes next, at `pay` at the latest.

        What ends at the same time is given back in one step, and that is what a step costs.
        """

    def pay(self) -> None:
        """Give back what is owed: now, or as soon as the state can be had."""

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
    rate, amount, latest = limits.requests_per_minute, limits.tokens_per_minute, now + MINUTE
    by_rate = arrival_after(requests, limit=rate, theoretical_arrival=rates.request_arrival, now=now)
    by_tokens = arrival_after(tokens, limit=amount, theoretical_arrival=rates.token_arrival, now=now)
    if by_rate <= latest * rate and by_tokens <= latest * amount:
        return Rates(rate, by_rate, amount, by_tokens)
    return _refuse(rates, limits=limits, requests=requests, tokens=tokens, now=now)


def _refuse(rates: Rates, *, limits: TierLimits, requests: int, tokens: int, now: int) -> Refusal:
    """Say which rate does not admit requests, and when it will."""
    rate, amount = limits.requests_per_minute, limits.tokens_per_minute
    by_rate = decide_rate(limit=rate, amount=requests, theoretical_arrival=rates.request_arrival, now=now)
    by_tokens = decide_rate(limit=amount, amount=tokens, theoretical_arrival=rates.token_arrival, now=now)
    if by_rate.wait is None:
        return Refusal(REQUEST_RATE, rate, requests, wait=None)
    if by_tokens.wait is None:
        return Refusal(TOKEN_RATE, amount, tokens, wait=None)
    if by_rate.wait >= by_tokens.wait:
        return Refusal(REQUEST_RATE, rate, rate, by_rate.wait)
    return Refusal(TOKEN_RATE, amount, amount, by_tokens.wait)


def without_tokens(rates: Rates, tokens: int) -> Rates:
    """Return the rates with tokens given back; an arrival in the past is a full bucket, not more."""
    arrival = max(0, rates.token_arrival - tokens * MINUTE)
    return Rates(rates.request_limit, rates.request_arrival, rates.token_limit, arrival)


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
        return Standing(decided, running + requests, limits, now)

    def leave(self, tenant_id: UUID, *, requests: int, tokens: int = 0) -> None:
        """Give back places, and tokens that were not needed."""
        rates = self._rates.get(tenant_id)
        if rates is not None and tokens:
            self._rates[tenant_id] = without_tokens(rates, tokens)
        self._leave(tenant_id, requests)

    def owe(self, tenant_id: UUID, *, requests: int, tokens: int = 0) -> None:
        """Give back places, and tokens that were not needed: here that costs nothing."""
        self.leave(tenant_id, requests=requests, tokens=tokens)

    def pay(self) -> None:
        """Nothing is owed."""

    def standing(self, tenant_id: UUID, *, limits: TierLimits, now: int) -> Standing:
        """Return what is left of a tenant's limits."""
        rates, running = self._rates.get(tenant_id, FULL), self._running.get(tenant_id, 0)
        return Standing(rates.under(limits, now=now), running, limits, now)

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
