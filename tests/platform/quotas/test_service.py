"""Admission and settlement: what is reserved, what is counted, what a refusal says."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.quota_store import MemoryReservationStore
from tritium_platform.adapters.shared_limiter import SharedLimiter
from tritium_platform.api.problems import openai_envelope
from tritium_platform.errors import (
    ModelSizeExceededError,
    OverloadedError,
    QuotaExceededError,
    RateLimitExceededError,
    Recovery,
    RequestTooLargeError,
    StorageQuotaExceededError,
    ValidationError,
)
from tritium_platform.quotas.admission import Admission
from tritium_platform.quotas.model import QuotaCounter, RateStatus
from tritium_platform.quotas.service import QuotaService, require_model_size
from tritium_platform.tenancy.model import ALL_SCOPES, TIER_LIMITS, TenantContext, TenantTier, override_limits
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from pathlib import Path


def a_caller(clock: ManualClock, **overrides: int) -> TenantContext:
    limits = override_limits(TIER_LIMITS[TenantTier.DEVELOPER], overrides)
    return TenantContext(uuid7(clock), "Ada", TenantTier.DEVELOPER, limits, "abcDEF012345", ALL_SCOPES)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 30, 23, 59, tzinfo=UTC))


@pytest.fixture
def quotas(clock: ManualClock) -> QuotaService:
    return QuotaService(store=MemoryReservationStore(MemoryDatabase()), clock=clock)


async def test_a_request_is_held_then_counted(quotas: QuotaService, clock: ManualClock) -> None:
    caller = a_caller(clock)
    admission = await quotas.reserve(caller, tokens=100)
    assert await quotas.usage_of_month(caller) == QuotaCounter(100_000, 0, 1)
    assert (admission.allowance.requests.limit, admission.allowance.requests.remaining) == (600, 599)
    assert (admission.allowance.tokens.limit, admission.allowance.tokens.remaining) == (200_000, 199_900)
    assert await quotas.settle(caller, admission=admission, tokens=40)
    assert await quotas.usage_of_month(caller) == QuotaCounter(100_000, 1, 0)
    assert (await quotas.reserve(caller)).allowance.tokens.remaining == 199_960
    assert not await quotas.settle(caller, admission=admission, tokens=0)
    assert (await quotas.reserve(caller)).allowance.tokens.remaining == 199_960


async def test_a_void_request_does_not_count(quotas: QuotaService, clock: ManualClock) -> None:
    caller = a_caller(clock)
    admission = await quotas.reserve(caller, tokens=100)
    assert await quotas.void(caller, admission=admission)
    assert not await quotas.void(caller, admission=admission)
    assert await quotas.usage_of_month(caller) == QuotaCounter(100_000, 0, 0)
    assert (await quotas.reserve(caller)).allowance.tokens.remaining == 200_000


async def test_a_spent_quota_says_when_it_starts_anew(quotas: QuotaService, clock: ManualClock) -> None:
    caller = a_caller(clock, monthly_quota=2)
    admissions = [await quotas.reserve(caller) for _ in range(2)]
    with pytest.raises(QuotaExceededError) as caught:
        await quotas.reserve(caller)
    assert caught.value.recovery is Recovery.UPGRADE_TIER
    assert caught.value.details == {
        "limit_name": "requests per month",
        "limit": 2,
        "current": 2,
        "reset_time": "2026-12-01T00:00:00+00:00",
        "retry_after": 60,
    }
    clock.advance(seconds=60)
    december = await quotas.reserve(caller)
    await quotas.settle(caller, admission=admissions[0], tokens=0)
    assert december.allowance.month == RateStatus(2, remaining=1, reset_seconds=31 * 86_400)
    assert await quotas.usage_of_month(caller) == QuotaCounter(2, 0, 1)


async def test_at_the_same_time_exactly_the_quota_is_admitted(
    quotas: QuotaService, clock: ManualClock
) -> None:
    caller = a_caller(clock, monthly_quota=13, max_concurrent_requests=1000)
    results = await asyncio.gather(*(quotas.reserve(caller) for _ in range(100)), return_exceptions=True)
    assert sum(isinstance(each, Admission) for each in results) == 13
    assert sum(isinstance(each, QuotaExceededError) for each in results) == 87


async def test_only_so_many_run_at_one_time(quotas: QuotaService, clock: ManualClock) -> None:
    caller = a_caller(clock, max_concurrent_requests=2)
    running = [await quotas.reserve(caller) for _ in range(2)]
    with pytest.raises(RateLimitExceededError) as caught:
        await quotas.reserve(caller)
    assert (caught.value.details["limit_name"], caught.value.details["retry_after"]) == (
        "concurrent requests",
        1,
    )
    await quotas.settle(caller, admission=running[0], tokens=0)
    await quotas.settle(caller, admission=running[0], tokens=0)
    await quotas.reserve(caller)
    with pytest.raises(RateLimitExceededError):
        await quotas.reserve(caller)
    await quotas.reserve(a_caller(clock))


async def test_what_ends_together_leaves_in_one_step_before_whoever_waits_for_an_end_goes_on(
    clock: ManualClock, tmp_path: Path
) -> None:
    first, second = (
        QuotaService(
            store=MemoryReservationStore(MemoryDatabase()), clock=clock, limiter=SharedLimiter(tmp_path)
        )
        for _ in range(2)
    )
    caller = a_caller(clock, max_concurrent_requests=3)
    admissions = await first.admit_all(caller, tokens=[5] * 3)
    ended = asyncio.Event()

    async def wait() -> list[Admission]:
        await ended.wait()
        return await second.admit_all(caller, tokens=[5] * 3)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    for each in admissions:
        first.finish(caller, admission=each, tokens=5, is_counted=True)
    ended.set()
    assert len(await waiting) == 3
    await first.close()
    await second.close()


async def test_a_refused_request_leaves_nothing_running(quotas: QuotaService, clock: ManualClock) -> None:
    caller = a_caller(clock, monthly_quota=0, max_concurrent_requests=1, tokens_per_minute=10)
    for _ in range(3):
        with pytest.raises(QuotaExceededError):
            await quotas.reserve(caller, tokens=10)


async def test_a_token_refusal_takes_no_request(quotas: QuotaService, clock: ManualClock) -> None:
    caller = a_caller(clock, requests_per_minute=2, tokens_per_minute=10)
    await quotas.reserve(caller, tokens=10)
    with pytest.raises(RateLimitExceededError, match="tokens"):
        await quotas.reserve(caller, tokens=5)
    assert (await quotas.reserve(caller)).allowance.requests.remaining == 0


async def test_a_request_that_can_never_fit_is_told_so(quotas: QuotaService, clock: ManualClock) -> None:
    caller = a_caller(clock, tokens_per_minute=10)
    with pytest.raises(RequestTooLargeError) as caught:
        await quotas.reserve(caller, tokens=11)
    assert caught.value.details == {"limit_name": "tokens per minute", "limit": 10, "current": 11}


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, int], list[tuple[int, list[int], float]]]:
    """Limits, and calls of (nanoseconds since the one before, tokens of each request, share used)."""
    limits = {
        "requests_per_minute": draw(st.integers(1, 700)),
        "tokens_per_minute": draw(st.integers(1, 10**6)),
        "max_concurrent_requests": 8,
    }
    wanted = st.lists(st.integers(0, limits["tokens_per_minute"]), min_size=1, max_size=8)
    calls = st.tuples(st.integers(0, 90 * 10**9), wanted, st.floats(0, 1))
    return limits, draw(st.lists(calls, max_size=15))


@given(histories())
@settings(max_examples=300, deadline=None)
def test_a_client_that_obeys_retry_after_alone_is_never_refused_for_the_same_limit(
    history: tuple[dict[str, int], list[tuple[int, list[int], float]]],
) -> None:
    async def run() -> None:
        clock = ManualClock()
        quotas = QuotaService(store=MemoryReservationStore(MemoryDatabase()), clock=clock)
        limits, calls = history
        caller = a_caller(clock, **limits)
        for wait, wanted, share in calls:
            clock.advance(nanoseconds=wait)
            try:
                admissions = await quotas.reserve_all(caller, tokens=wanted)
            except RequestTooLargeError:  # no waiting helps, and the answer says so
                most = limits["requests_per_minute"], limits["tokens_per_minute"]
                assert len(wanted) > most[0] or sum(wanted) > most[1]
                continue
            except RateLimitExceededError as error:
                _, _, headers = openai_envelope(error)
                clock.advance(seconds=int(headers["Retry-After"]))  # and not one nanosecond more
                admissions = await quotas.reserve_all(caller, tokens=wanted)
            for admission in admissions:
                await quotas.settle(caller, admission=admission, tokens=int(admission.tokens * share))

    asyncio.run(run())


@given(st.integers(1, 700), st.integers(0, 700), st.integers(0, 10**9))
@settings(deadline=None)
def test_what_the_headers_say_remains_is_admitted_until_all_is_back(
    limit: int, taken: int, later: int
) -> None:
    async def run() -> None:
        clock = ManualClock()
        quotas = QuotaService(store=MemoryReservationStore(MemoryDatabase()), clock=clock)
        caller = a_caller(clock, requests_per_minute=limit, max_concurrent_requests=10**6)
        for _ in range(min(taken, limit)):
            await quotas.reserve(caller)
        clock.advance(nanoseconds=later)
        status = quotas.allowance(caller).requests
        window = math.ceil(status.reset_seconds)
        clock.advance(nanoseconds=later % (window * 10**9 + 1))
        for _ in range(status.remaining):
            await quotas.reserve(caller)

    asyncio.run(run())


async def test_requests_that_belong_together_are_admitted_together_or_not_at_all(
    quotas: QuotaService, clock: ManualClock
) -> None:
    caller = a_caller(clock, requests_per_minute=4, monthly_quota=5, max_concurrent_requests=4)
    for admission in await quotas.reserve_all(caller, tokens=[1, 1, 1]):
        await quotas.settle(caller, admission=admission, tokens=1)
    with pytest.raises(RateLimitExceededError, match="requests per minute"):
        await quotas.reserve_all(caller, tokens=[1, 1])
    assert quotas.allowance(caller).requests.remaining == 1
    clock.advance(seconds=45)
    with pytest.raises(QuotaExceededError) as caught:
        await quotas.reserve_all(caller, tokens=[1, 1, 1])
    assert (caught.value.details["limit"], caught.value.details["current"]) == (5, 3)
    assert await quotas.usage_of_month(caller) == QuotaCounter(5, 3, 0)
    assert quotas.allowance(caller).concurrent.remaining == 4
    with pytest.raises(RequestTooLargeError, match="5 of concurrent requests"):
        await quotas.reserve_all(caller, tokens=[0] * 5)


async def test_a_reservation_whose_process_died_comes_back(quotas: QuotaService, clock: ManualClock) -> None:
    caller = a_caller(clock, monthly_quota=5)
    clock.advance(seconds=120)
    admission = await quotas.reserve(caller)
    clock.advance(seconds=899)
    assert not await quotas.sweep()
    clock.advance(seconds=1)
    assert [each.id for each in await quotas.sweep()] == [admission.reservation.id]
    assert await quotas.usage_of_month(caller) == QuotaCounter(5, 0, 0)


async def test_a_request_that_was_forgotten_does_not_block_its_tenant_for_ever(
    quotas: QuotaService, clock: ManualClock
) -> None:
    caller = a_caller(clock, max_concurrent_requests=1)
    forgotten = await quotas.reserve(caller)
    clock.advance(seconds=900)
    await quotas.sweep()
    await quotas.reserve(caller)
    assert await quotas.settle(caller, admission=forgotten, tokens=0)
    with pytest.raises(RateLimitExceededError, match="concurrent"):
        await quotas.reserve(caller)


async def test_storage_is_held_used_and_freed(quotas: QuotaService, clock: ManualClock) -> None:
    caller = a_caller(clock, max_storage=100)
    reservation = await quotas.storage.reserve(caller, size=70)
    with pytest.raises(StorageQuotaExceededError) as caught:
        await quotas.storage.reserve(caller, size=31)
    assert caught.value.details == {"usage": 70, "quota": 100, "required": 31}
    assert caught.value.recovery is Recovery.UPGRADE_STORAGE
    assert await quotas.storage.settle(reservation, size=60)
    assert not await quotas.storage.settle(reservation, size=60)
    assert await quotas.storage.usage(caller) == QuotaCounter(100, 60, 0)
    second = await quotas.storage.reserve(caller, size=40)
    assert await quotas.storage.void(second)
    assert await quotas.storage.release(caller.tenant_id, size=60) == 60
    assert await quotas.storage.usage(caller) == QuotaCounter(100, 0, 0)


async def test_storage_that_is_filled_already_is_counted_beyond_the_limit_and_refuses_what_comes_next(
    quotas: QuotaService, clock: ManualClock
) -> None:
    caller = a_caller(clock, max_storage=100)
    await quotas.storage.settle(await quotas.storage.reserve(caller, size=90), size=90)
    await quotas.storage.count(caller.tenant_id, size=30)
    assert await quotas.storage.usage(caller) == QuotaCounter(100, 120, 0)
    with pytest.raises(StorageQuotaExceededError):
        await quotas.storage.reserve(caller, size=1)
    await quotas.storage.release(caller.tenant_id, size=30)
    await quotas.storage.reserve(caller, size=10)
    with pytest.raises(StorageQuotaExceededError):
        await quotas.storage.reserve(caller, size=1)


async def test_a_deferred_request_counts_for_the_month_and_not_for_the_rates(
    quotas: QuotaService, clock: ManualClock
) -> None:
    caller = a_caller(clock, requests_per_minute=1, max_concurrent_requests=1, monthly_quota=8)
    deferred = [await quotas.reserve_deferred(caller, requests=2) for _ in range(3)]
    assert await quotas.usage_of_month(caller) == QuotaCounter(8, 0, 6)
    own = await quotas.reserve(caller, tokens=10)  # the caller's own rate is untouched
    assert await quotas.settle(caller, admission=deferred[0], tokens=1_000_000)
    assert await quotas.void(caller, admission=deferred[1])
    assert not await quotas.void(caller, admission=deferred[1])
    assert await quotas.usage_of_month(caller) == QuotaCounter(8, 2, 3)
    with pytest.raises(RateLimitExceededError, match="concurrent"):  # a settlement frees nobody else's place
        await quotas.reserve(caller)
    await quotas.settle(caller, admission=own, tokens=10)
    await quotas.reserve_deferred(caller, requests=3)
    with pytest.raises(QuotaExceededError):
        await quotas.reserve_deferred(caller, requests=1)


async def test_a_deferred_request_holds_nothing_where_the_limits_cannot_be_had(
    quotas: QuotaService, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = a_caller(clock)

    def closed(*_: object, **__: object) -> None:
        raise OverloadedError("The limits cannot be read: try again in a moment.")

    monkeypatch.setattr(quotas._limiter, "standing", closed)
    with pytest.raises(OverloadedError):
        await quotas.reserve_deferred(caller, requests=2)
    assert await quotas.usage_of_month(caller) == QuotaCounter(100_000, 0, 0)


async def test_two_tenants_do_not_share_anything(quotas: QuotaService, clock: ManualClock) -> None:
    one = a_caller(clock, monthly_quota=1, requests_per_minute=1, max_concurrent_requests=1)
    other = replace(one, tenant_id=uuid7(clock))
    await quotas.reserve(one)
    await quotas.reserve(other)


def test_a_model_larger_than_the_tier_is_refused(clock: ManualClock) -> None:
    caller = a_caller(clock)
    require_model_size(caller, size=10**9)
    with pytest.raises(ModelSizeExceededError):
        require_model_size(caller, size=10**9 + 1)


@pytest.mark.parametrize("wrong", [-1, 2**62, 1.5, True])
async def test_amounts_are_whole_numbers(quotas: QuotaService, clock: ManualClock, wrong: int) -> None:
    with pytest.raises(ValidationError):
        await quotas.reserve(a_caller(clock), tokens=wrong)
    with pytest.raises(ValidationError):
        await quotas.storage.reserve(a_caller(clock), size=wrong)
