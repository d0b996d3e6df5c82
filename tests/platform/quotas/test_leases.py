"""Leases: whatever several processes do, the limit holds, and what was not used comes back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.quota_store import MemoryReservationStore
from tritium_platform.errors import QuotaExceededError
from tritium_platform.quotas.leases import SHARE, lease_size
from tritium_platform.quotas.model import QuotaCounter, QuotaMeter
from tritium_platform.quotas.service import QuotaService
from tritium_platform.tenancy.model import ALL_SCOPES, TIER_LIMITS, TenantContext, TenantTier, override_limits
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from tritium_platform.quotas.admission import Admission

LIMIT = 230
OPEN = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "max_concurrent_requests": 10**6}


def a_caller(clock: ManualClock, *, limit: int = LIMIT) -> TenantContext:
    limits = override_limits(TIER_LIMITS[TenantTier.DEVELOPER], {**OPEN, "monthly_quota": limit})
    return TenantContext(uuid7(clock), "Ada", TenantTier.DEVELOPER, limits, "abcDEF012345", ALL_SCOPES)


async def end(
    quotas: QuotaService,
    store: MemoryReservationStore,
    caller: TenantContext,
    admission: Admission,
    clock: ManualClock,
    *,
    is_counted: bool,
) -> None:
    """End a request as the journal does: the settlement in the store, then the process's own memory."""
    identity = {"tenant_id": caller.tenant_id, "at": clock.now()}
    if not admission.is_leased:
        await (
            store.settle(admission.reservation.id, amount=1, **identity)
            if is_counted
            else store.void(admission.reservation.id, **identity)
        )
    elif is_counted:
        await store.use(admission.reservation.id, amount=1, **identity)
    quotas.finish(caller, admission=admission, tokens=0, is_counted=is_counted)


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_lease_is_a_small_part_and_leaves_the_last_fiftieth_alone(limit: int, remaining: int) -> None:
    size = lease_size(remaining=remaining, limit=limit)
    assert 0 <= size <= remaining // SHARE
    assert size == 0 or (remaining - size) * SHARE >= limit


async def test_one_lease_serves_many_requests_and_the_store_is_asked_once() -> None:
    asked = 0

    class Counting(MemoryReservationStore):
        async def hold(self, *arguments: object, **options: object) -> tuple[bool, QuotaCounter]:
            nonlocal asked
            asked += 1
            return await super().hold(*arguments, **options)  # type: ignore[arg-type]

    clock = ManualClock()
    store = Counting(MemoryDatabase())
    quotas, caller = QuotaService(store=store, clock=clock), a_caller(clock, limit=100_000)
    for number in range(1, 101):
        (admission,) = await quotas.admit_all(caller, tokens=[0])
        assert admission.allowance.month is not None
        assert admission.allowance.month.remaining == 100_000 - number
        await end(quotas, store, caller, admission, clock, is_counted=True)
    assert asked == 1
    assert await quotas.usage_of_month(caller) == QuotaCounter(100_000, 100, 0)
    await quotas.close()
    assert await store.counter(caller.tenant_id, meter=QuotaMeter.REQUESTS, period="2026-11") == QuotaCounter(
        100_000, 100, 0
    )


async def test_many_at_once_share_one_lease() -> None:
    clock = ManualClock()
    store = MemoryReservationStore(MemoryDatabase())
    quotas, caller = QuotaService(store=store, clock=clock), a_caller(clock, limit=100_000)
    admitted = await asyncio.gather(*(quotas.admit_all(caller, tokens=[0, 0]) for _ in range(50)))
    assert len({each.reservation.id for pair in admitted for each in pair}) == 1
    assert (await quotas.usage_of_month(caller)).held == 100


async def test_what_lies_in_a_lease_is_there_for_requests_that_are_reserved_one_by_one() -> None:
    clock = ManualClock()
    store = MemoryReservationStore(MemoryDatabase())
    quotas, caller = QuotaService(store=store, clock=clock), a_caller(clock, limit=1000)
    (leased,) = await quotas.admit_all(caller, tokens=[0])
    assert leased.is_leased
    await quotas.reserve_deferred(caller, requests=980)
    keyed = await quotas.reserve_all(caller, tokens=[0] * 19)
    assert not any(each.is_leased for each in keyed)
    for refused in (quotas.reserve(caller), quotas.admit_all(caller, tokens=[0])):
        with pytest.raises(QuotaExceededError) as caught:
            await refused
        assert caught.value.details["current"] == 1000
    await end(quotas, store, caller, leased, clock, is_counted=False)
    await quotas.reserve(caller)


async def test_a_new_limit_counts_at_once_and_a_new_month_has_a_new_lease() -> None:
    clock = ManualClock(datetime(2026, 11, 30, 23, 59, 50, tzinfo=UTC))
    store = MemoryReservationStore(MemoryDatabase())
    quotas, caller = QuotaService(store=store, clock=clock), a_caller(clock, limit=100_000)
    (first,) = await quotas.admit_all(caller, tokens=[0])
    assert first.is_leased
    limits = override_limits(caller.limits, {"monthly_quota": 1})
    lowered = TenantContext(caller.tenant_id, "Ada", caller.tier, limits, caller.key_id, caller.scopes)
    with pytest.raises(QuotaExceededError):
        await quotas.admit_all(lowered, tokens=[0])
    clock.advance(seconds=10)
    (december,) = await quotas.admit_all(caller, tokens=[0])
    assert (first.reservation.period, december.reservation.period) == ("2026-11", "2026-12")


class SeveralProcesses(RuleBasedStateMachine):
    """Three gateways over one store: each admits, ends, forgets, dies; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock(datetime(2026, 11, 3, tzinfo=UTC))
        self.store = MemoryReservationStore(MemoryDatabase())
        self.caller = a_caller(self.clock)
        self.processes = [self.new_process() for _ in range(3)]
        self.running: list[tuple[int, QuotaService, Admission]] = []
        self.counted = 0

    def new_process(self) -> QuotaService:
        return QuotaService(store=self.store, clock=self.clock, reservation_seconds=90)

    @rule(process=st.integers(0, 2), count=st.integers(1, 7))
    def admit(self, process: int, count: int) -> None:
        quotas = self.processes[process]
        try:
            admitted = self.loop.run_until_complete(quotas.admit_all(self.caller, tokens=[0] * count))
        except QuotaExceededError:
            return
        self.running += [(process, quotas, each) for each in admitted]

    @precondition(lambda self: self.running)
    @rule(place=st.integers(0, 10**6), is_counted=st.booleans())
    def finish(self, place: int, is_counted: bool) -> None:  # noqa: FBT001 - drawn
        _, quotas, admission = self.running.pop(place % len(self.running))
        before = self.counter.used
        self.loop.run_until_complete(
            end(quotas, self.store, self.caller, admission, self.clock, is_counted=is_counted)
        )
        assert self.counter.used - before in ({0, 1} if is_counted else {0})
        self.counted += self.counter.used - before

    @rule(process=st.integers(0, 2))
    def die(self, process: int) -> None:
        self.processes[process] = self.new_process()
        self.running = [each for each in self.running if each[0] != process]

    @rule(process=st.integers(0, 2), seconds=st.sampled_from([1, 30, 61, 200]))
    def sweep(self, process: int, seconds: int) -> None:
        self.clock.advance(seconds=seconds)
        self.loop.run_until_complete(self.processes[process].sweep())

    @property
    def counter(self) -> QuotaCounter:
        kept = self.loop.run_until_complete(
            self.store.counter(self.caller.tenant_id, meter=QuotaMeter.REQUESTS, period="2026-11")
        )
        return kept or QuotaCounter(LIMIT)

    @invariant()
    def the_limit_holds_and_every_use_counts_once(self) -> None:
        counter = self.counter
        assert counter.held >= 0
        assert counter.used + counter.held <= LIMIT
        assert counter.used == self.counted

    def teardown(self) -> None:
        """In the end, with every process gone and all time over, only what was used is used."""
        self.clock.advance(seconds=1000)
        for _ in range(3):
            self.loop.run_until_complete(self.new_process().sweep())
        assert (self.counter.used, self.counter.held) == (self.counted, 0)
        self.loop.close()


TestSeveralProcesses = SeveralProcesses.TestCase
TestSeveralProcesses.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
