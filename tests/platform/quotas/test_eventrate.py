"""The rate of events: all or none, apart from the other rates, and given back when nothing came of it."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.shared_limiter import SharedLimiter
from tritium_platform.errors import OverloadedError, RateLimitExceededError, RequestTooLargeError
from tritium_platform.quotas.eventrate import EventRate
from tritium_platform.quotas.limiter import LocalLimiter
from tritium_platform.tenancy.model import TIER_LIMITS, TenantContext, TenantTier


@pytest.fixture(params=["local", "shared"])
def limiter(request, tmp_path):
    made = LocalLimiter() if request.param == "local" else SharedLimiter(tmp_path)
    yield made
    made.close()


def a_caller(*, events):
    limits = replace(TIER_LIMITS[TenantTier.TEAM], events_per_minute=events)
    return TenantContext(uuid4(), "Acme", TenantTier.TEAM, limits, "key", frozenset())


def test_events_have_a_bucket_of_their_own_that_refills_evenly(limiter):
    clock = ManualClock()
    rate, caller = EventRate(limiter=limiter, clock=clock), a_caller(events=60)
    with rate.take(caller, count=60) as left:
        assert (left.limit, left.remaining, left.reset_seconds) == (60, 0, 60.0)
    with pytest.raises(RateLimitExceededError) as refused, rate.take(caller, count=3):
        pass
    assert (refused.value.details["limit_name"], refused.value.details["retry_after"]) == (
        "events per minute",
        3,
    )
    with pytest.raises(RequestTooLargeError), rate.take(caller, count=61):
        pass
    clock.advance(seconds=3)  # as long as was said
    with rate.take(caller, count=3):
        pass
    now = clock.monotonic_nanoseconds()
    others = limiter.standing(caller.tenant_id, limits=caller.limits, now=now)
    assert (others.tokens.remaining, others.running) == (caller.limits.tokens_per_minute, 0)
    with rate.take(a_caller(events=60), count=60):  # of another tenant
        pass


def test_what_the_database_could_not_take_is_given_back(limiter):
    rate, caller = EventRate(limiter=limiter, clock=ManualClock()), a_caller(events=10)
    for _ in range(3):
        with pytest.raises(OverloadedError), rate.take(caller, count=10):
            raise OverloadedError("away")
    assert rate.status(caller).remaining == 10


def test_a_tenant_without_events_may_send_none(limiter):
    rate, caller = EventRate(limiter=limiter, clock=ManualClock()), a_caller(events=0)
    with pytest.raises(RequestTooLargeError), rate.take(caller, count=1):
        pass
    with rate.take(caller, count=0):
        pass
