"""Fair use: whoever stays within its shares is left alone; more use never means less, and all of it ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium_platform.adapters.memory.audit_outbox import MemoryAuditOutbox
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.fairuse_store import MemoryFairUseStore
from tritium_platform.adapters.memory.metering_store import MemoryUsageStore
from tritium_platform.adapters.memory.tenancy_store import MemoryTenantStore
from tritium_platform.errors import ConflictError, FairUseSuspendedError, NotFoundError
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.quotas.enforcement import FairUseMode, FairUseService
from tritium_platform.quotas.fairuse import (
    LOOK_BACK,
    OF_CAPACITY,
    WINDOW,
    FairUseAction,
    FairUseMeasure,
    FairUseReading,
    FairUseRule,
    TenantFacts,
    due_action,
    read_facts,
    throttled,
)
from tritium_platform.tenancy.model import TIER_LIMITS, TIER_WEIGHTS, TenantTier
from tritium_platform.tenancy.service import TenancyService
from tritium_platform.values import uuid7

NOW = ManualClock().now()
CODES = [*sorted(OF_CAPACITY), "quota_exceeded", "rate_limit_exceeded", "fair_use_suspended", "not_found"]


@st.composite
def facts(draw):
    """What is recorded of up to six tenants."""
    found = []
    for number in range(draw(st.integers(1, 6))):
        tier = draw(st.sampled_from(TenantTier))
        rate = draw(st.integers(0, 20))
        found.append(
            TenantFacts(
                tenant_id=UUID(int=number),
                tier=tier,
                limits=replace(TIER_LIMITS[tier], requests_per_minute=rate),
                requests=draw(st.integers(0, 500)),
                compute_ms=draw(st.integers(0, 10**6)),
                refusals=draw(st.dictionaries(st.sampled_from(CODES), st.integers(1, 2000))),
            )
        )
    return found


@st.composite
def pasts(draw):
    """Measures about one tenant within the last days."""
    measures = []
    for number in range(draw(st.integers(0, 5))):
        start = NOW - timedelta(minutes=draw(st.integers(0, 3000)))
        action = draw(st.sampled_from(FairUseAction))
        measures.append(
            FairUseMeasure(
                id=UUID(int=number),
                tenant_id=UUID(int=0),
                rule=draw(st.sampled_from(FairUseRule)),
                action=action,
                reason="",
                used=1,
                share=Fraction(1),
                starts_at=start,
                ends_at=start + timedelta(hours=1),
                is_dry_run=False,
                lifted_at=draw(st.sampled_from((None, None, NOW))),
            )
        )
    return measures


def a_reading(used, *, share=Fraction(100), rule=FairUseRule.REQUESTS):
    return FairUseReading(tenant_id=UUID(int=0), rule=rule, used=used, share=share, explanation="")


def severity(action):
    return action.severity if action else 0


@given(facts(), pasts())
@settings(max_examples=200)
def test_nobody_within_its_shares_is_touched_whatever_was_before(recorded, past):
    total = sum(each.compute_ms for each in recorded)
    weights = sum(TIER_WEIGHTS[each.tier] for each in recorded)
    by_tenant = {each.tenant_id: each for each in recorded}
    for reading in read_facts(recorded):
        each = by_tenant[reading.tenant_id]
        if reading.used <= reading.share:
            assert due_action(reading, past=past, now=NOW) is None
        if reading.rule is FairUseRule.COMPUTE:
            # Its part by weight of all that was worked is in everybody's share, as far as it used so much.
            assert reading.share >= min(each.compute_ms, Fraction(total * TIER_WEIGHTS[each.tier], weights))


@given(facts())
def test_nobody_is_beyond_its_share_of_compute_unless_others_were_refused_for_want_of_room(recorded):
    for reading in read_facts(recorded):
        others = [each for each in recorded if each.tenant_id != reading.tenant_id]
        wanted = any(each.refusals.get(code) for each in others for code in OF_CAPACITY)
        if reading.rule is FairUseRule.COMPUTE and not wanted:
            assert reading.used <= reading.share


@given(st.integers(0, 10**4), st.integers(0, 10**4), st.integers(0, 10**4), pasts())
def test_more_use_of_the_same_share_never_brings_a_milder_measure(used, more, share, past):
    before = due_action(a_reading(used, share=Fraction(share)), past=past, now=NOW)
    after = due_action(a_reading(used + more, share=Fraction(share)), past=past, now=NOW)
    assert severity(before) <= severity(after)


@given(st.integers(0, 1000), pasts(), pasts())
def test_a_worse_record_never_brings_a_milder_measure_and_what_is_lifted_does_not_count(used, past, more):
    reading = a_reading(used)
    action = due_action(reading, past=past, now=NOW)
    assert severity(action) <= severity(due_action(reading, past=past + more, now=NOW))
    lifted = [replace(each, lifted_at=NOW) for each in more]
    assert due_action(reading, past=past + lifted, now=NOW) is action


@given(facts())
def test_the_order_of_the_facts_does_not_matter(recorded):
    assert read_facts(recorded) == read_facts(recorded[::-1])


def test_a_suspension_needs_two_throttles_that_have_ended_and_four_times_the_share():
    def a_throttle(hours):
        start = NOW - timedelta(hours=hours)
        return FairUseMeasure(
            id=UUID(int=hours),
            tenant_id=UUID(int=0),
            rule=FairUseRule.REQUESTS,
            action=FairUseAction.THROTTLE,
            reason="",
            used=1,
            share=Fraction(1),
            starts_at=start,
            ends_at=start + timedelta(hours=1),
            is_dry_run=False,
        )

    past = [a_throttle(1), a_throttle(2)]
    assert due_action(a_reading(401), past=past, now=NOW) is FairUseAction.SUSPEND
    assert due_action(a_reading(400), past=past, now=NOW) is FairUseAction.THROTTLE
    running = [replace(past[0], ends_at=NOW + timedelta(minutes=1)), past[1]]
    assert due_action(a_reading(401), past=running, now=NOW) is FairUseAction.THROTTLE
    assert due_action(a_reading(401), past=[past[0], a_throttle(26)], now=NOW) is FairUseAction.THROTTLE
    assert due_action(a_reading(125), past=past, now=NOW) is None


def test_a_throttle_leaves_something_of_every_rate():
    for limits in TIER_LIMITS.values():
        less = throttled(limits)
        assert 0 < less.requests_per_minute < limits.requests_per_minute
        assert less.monthly_quota == limits.monthly_quota
    least = replace(
        TIER_LIMITS[TenantTier.TEAM], requests_per_minute=1, tokens_per_minute=2, max_concurrent_requests=3
    )
    assert throttled(least) == replace(least, tokens_per_minute=1, max_concurrent_requests=1)


class Office:
    """The service over memory, with two tenants of a tier."""

    @classmethod
    async def open(cls, mode=FairUseMode.ENFORCE):
        office, database = cls(), MemoryDatabase()
        office.clock, office.outbox = ManualClock(), MemoryAuditOutbox(database)
        office.usage, office.store = MemoryUsageStore(database), MemoryFairUseStore(database)
        office.tenancy = TenancyService(
            store=MemoryTenantStore(database), pepper=bytes(32), clock=office.clock
        )
        office.open_service = lambda mode: FairUseService(
            store=office.store,
            activity=office.usage,
            tenants=office.tenancy,
            trail=office.outbox,
            unit_of_work=database.unit_of_work,
            clock=office.clock,
            mode=mode,
        )
        office.service = office.open_service(mode)
        office.contexts = []
        for name in ("greedy", "meek"):
            tenant = await office.tenancy.create_tenant(organization_name=name, tier=TenantTier.DEVELOPER)
            _, key = await office.tenancy.create_key(tenant.id, name="k")
            office.contexts.append(await office.tenancy.authenticate_request(key))
        return office

    async def use(self, context, *, compute_ms):
        record = UsageRecord(
            id=uuid7(self.clock),
            tenant_id=context.tenant_id,
            source="gateway",
            event_id=uuid7(self.clock).hex,
            operation=OperationType.CHAT,
            tier=context.tier,
            outcome="success",
            occurred_at=self.clock.now(),
            quantities=UsageQuantities(),
            resources=ResourceUsage(compute_time_ms=compute_ms),
        )
        await self.usage.insert(record)

    async def quarter(self, *, refused=5):
        """A quarter of an hour in which one tenant takes nearly everything and the other finds no room."""
        greedy, meek = self.contexts
        taken = []
        for _ in range(15):
            await self.use(greedy, compute_ms=50_000)
            await self.use(meek, compute_ms=1_000)
            for _ in range(refused):
                await self.service.count_refusal(meek.tenant_id, code="queue_full")
            self.clock.advance(seconds=60)
            taken += await self.service.enforce()
        return taken


async def test_a_tenant_that_takes_what_others_are_refused_is_warned_throttled_and_let_go_by_itself():
    office = await Office.open()
    greedy, meek = office.contexts
    (notice,) = await office.quarter()
    assert (notice.tenant_id, notice.rule, notice.action) == (greedy.tenant_id, "compute", "notice")
    assert "requests of others were refused" in notice.reason
    assert notice.used > notice.share
    assert office.service.apply(greedy) is greedy
    (throttle,) = await office.quarter()
    assert throttle.action is FairUseAction.THROTTLE
    assert throttle.starts_at - notice.starts_at >= WINDOW
    assert office.service.apply(greedy).limits == throttled(greedy.limits)
    assert office.service.apply(meek) is meek
    office.clock.advance(seconds=3600)
    assert office.service.apply(greedy) is greedy
    assert await office.service.enforce() == []
    intents = await office.outbox.pending(limit=9)
    assert [intent.action for intent in intents] == ["fair_use.take", "fair_use.take"]
    assert intents[1].details["used"] == throttle.used
    assert intents[1].details["measure"] == "throttle"


async def test_a_tenant_that_uses_everything_while_nobody_wants_it_is_left_alone():
    office = await Office.open()
    assert await office.quarter(refused=0) + await office.quarter(refused=0) == []


async def test_a_dry_run_writes_down_what_it_would_do_and_does_nothing():
    office = await Office.open(FairUseMode.DRY_RUN)
    greedy, _ = office.contexts
    taken = await office.quarter() + await office.quarter()
    assert [(each.action.value, each.is_dry_run) for each in taken] == [("notice", True), ("throttle", True)]
    assert office.service.apply(greedy) is greedy
    # What a dry run has noted is no warning to anybody once it is meant.
    office.service = office.open_service(FairUseMode.ENFORCE)
    (notice,) = await office.quarter()
    assert (notice.action.value, notice.is_dry_run) == ("notice", False)


async def test_switched_off_nothing_is_counted_or_done():
    office = await Office.open(FairUseMode.OFF)
    assert await office.quarter() == []
    assert await office.store.refusals(since=office.clock.now() - LOOK_BACK) == {}


async def test_an_operator_lifts_a_measure_at_once_and_it_counts_no_more():
    office = await Office.open()
    greedy, _ = office.contexts
    await office.quarter()
    (throttle,) = await office.quarter()
    lifted = await office.service.lift(throttle.id, because="a launch we knew of")
    assert office.service.apply(greedy) is greedy
    assert lifted.lifted_because == "a launch we knew of"
    assert next(iter(await office.service.list(tenant_id=greedy.tenant_id))) == lifted
    with pytest.raises(ConflictError):
        await office.service.lift(throttle.id, because="again")
    with pytest.raises(NotFoundError):
        await office.service.lift(UUID(int=5), because="what")
    assert [intent.action for intent in await office.outbox.pending(limit=9)][-1] == "fair_use.lift"


async def test_a_client_that_never_waits_is_suspended_in_the_end_and_told_until_when():
    office = await Office.open()
    context = office.contexts[0]
    allowed = context.limits.requests_per_minute
    actions = []
    for _ in range(4 * 60):
        slot = office.clock.now().replace(second=0, microsecond=0)
        key = (context.tenant_id, slot, "rate_limit_exceeded")
        office.store._counts[key] = 5 * allowed
        office.clock.advance(seconds=60)
        actions += [measure.action.value for measure in await office.service.enforce()]
    assert actions[:4] == ["notice", "throttle", "throttle", "suspend"]
    with pytest.raises(FairUseSuspendedError, match="suspended until") as refusal:
        office.service.apply(context)
    details = refusal.value.details
    assert 0 < details["retry_after"] <= 3600
    assert str((await office.service.list(limit=1))[0].id) == details["measure"]
    # An hour after the last attempt everything is as before.
    office.clock.advance(seconds=3600)
    assert office.service.apply(context) is context
    assert await office.service.enforce() == []
