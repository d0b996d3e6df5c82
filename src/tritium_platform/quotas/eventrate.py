"""How fast a tenant may report uses that it counted itself: a bucket of events beside those of requests."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from tritium_platform.quotas.limiter import Refusal
from tritium_platform.quotas.refusals import refused_by_limit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritium_platform.quotas.limiter import Limiter
    from tritium_platform.quotas.model import RateStatus
    from tritium_platform.tenancy.model import TenantContext, TierLimits
    from tritium_platform.values import Clock

EVENT_RATE = "events per minute"
# The limiter keeps a bucket of amounts under an id: that of events is another one than that of tokens.
_EVENTS = "events"


class EventRate:
    """The rate of events, exact among all gateways that share the limiter."""

    def __init__(self, *, limiter: Limiter, clock: Clock) -> None:
        self._limiter = limiter
        self._clock = clock

    @contextmanager
    def take(self, context: TenantContext, *, count: int) -> Iterator[RateStatus]:
        """Take events from the rate, all or none; what fails inside gives them back.

        Raises:
            RequestTooLargeError: more than the rate has at its fullest; no waiting helps.
            RateLimitExceededError: too fast; waiting `retry_after` helps.
            OverloadedError: the limits cannot be had at this moment.
        """
        key, limits = self._place(context)
        decided = self._limiter.enter(
            key, limits=limits, requests=0, tokens=count, now=self._clock.monotonic_nanoseconds()
        )
        if isinstance(decided, Refusal):
            raise refused_by_limit(decided._replace(limit_name=EVENT_RATE), at=self._clock.now())
        unused = count
        try:
            yield decided.tokens
            unused = 0
        finally:
            self._limiter.leave(key, requests=0, tokens=unused)

    def status(self, context: TenantContext) -> RateStatus:
        """Return what is left of the rate now."""
        key, limits = self._place(context)
        now = self._clock.monotonic_nanoseconds()
        return self._limiter.standing(key, limits=limits, now=now).tokens

    def _place(self, context: TenantContext) -> tuple[UUID, TierLimits]:
        limits = replace(context.limits, tokens_per_minute=context.limits.events_per_minute)
        return uuid5(context.tenant_id, _EVENTS), limits
