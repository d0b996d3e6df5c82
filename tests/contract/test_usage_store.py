"""What every store of usage records promises."""

from __future__ import annotations

import asyncio
from datetime import timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tritium_platform.errors import ConflictError
from tritium_platform.metering.model import (
    Meter,
    OperationType,
    Report,
    ResourceUsage,
    TenantActivity,
    UsageQuantities,
    UsageRecord,
    UsageTotal,
)
from tritium_platform.metering.service import MeteringService
from tritium_platform.tenancy.model import Tenant, TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock

LARGEST = 2**63 - 1


def a_record(
    clock: ManualClock, *, tenant_id: UUID, event_id: str = "request-1", **changes: object
) -> UsageRecord:
    record = UsageRecord(
        id=uuid7(clock),
        tenant_id=tenant_id,
        source="gateway",
        event_id=event_id,
        operation=OperationType.CHAT,
        tier=TenantTier.TEAM,
        outcome="success",
        occurred_at=clock.now(),
        quantities=UsageQuantities(input_tokens=11, output_tokens=7),
        resources=ResourceUsage(compute_time_ms=250, memory_peak_bytes=2**33, network_bytes_transferred=900),
        model="größte-✓",
        key_id="abcDEF012345",
    )
    return replace(record, **changes)


async def test_a_record_comes_back_as_it_was_given(books: Books, clock: ManualClock) -> None:
    tenant_id = uuid7(clock)
    record = a_record(clock, tenant_id=tenant_id, quantities=UsageQuantities(embedding_tokens=LARGEST))
    assert await books.usage.insert(record) is None
    month = CalendarMonth.of(clock.now())
    found = await books.usage.list(tenant_id, start=month.start, end=month.end, limit=10)
    assert list(found) == [record]
    assert found[0].body_sha256() == record.body_sha256()


async def test_a_resent_record_counts_once_and_a_different_one_is_a_conflict(
    books: Books, clock: ManualClock
) -> None:
    tenant_id = uuid7(clock)
    record = a_record(clock, tenant_id=tenant_id)
    metering = MeteringService(store=books.usage)
    assert await metering.record(record)
    clock.advance(seconds=86_400 * 400)
    assert not await metering.record(replace(record, id=uuid7(clock)))
    with pytest.raises(ConflictError) as caught:
        await metering.record(replace(record, id=uuid7(clock), quantities=UsageQuantities(input_tokens=12)))
    assert caught.value.details == {"source": "gateway", "event_id": "request-1"}
    totals = await metering.totals(
        tenant_id, start=record.occurred_at, end=record.occurred_at + timedelta(seconds=1)
    )
    assert UsageTotal(TenantTier.TEAM, Meter.INPUT_TOKENS, 11) in totals


async def test_many_at_once_are_kept_as_one_by_one_and_those_that_are_there_stay(
    books: Books, clock: ManualClock
) -> None:
    odd = "'\"\\ \t\n\x7f {}[],:%s $1 größte ✓ 😀 \u2028"
    report = Report(
        dimensions={"device": "d", odd: odd}, received_at=clock.now(), body_sha256=bytes(range(32))
    )
    changes: list[dict[str, object]] = [
        {},
        {"model": odd, "outcome": odd, "source": odd, "key_id": None},
        {"occurred_at": clock.now() + timedelta(microseconds=1), "operation": OperationType.EXTERNAL},
        {"quantities": UsageQuantities(input_tokens=LARGEST, quantized_parameters=LARGEST - 1)},
        {"resources": ResourceUsage(storage_bytes=LARGEST), "report": report},
    ]
    kept: list[list[UsageRecord]] = []
    for is_together in (False, True):
        tenant_id = uuid7(clock)
        records = [
            a_record(clock, tenant_id=tenant_id, event_id=f"{odd}{place}", **change)
            for place, change in enumerate(changes)
        ]
        if is_together:
            await books.usage.insert_all([])
            await books.usage.insert_all(records[:2])
            again = [replace(each, id=uuid7(clock), model="another") for each in records[:2]]
            await books.usage.insert_all([*again, *records[2:], records[-1]])
        else:
            for each in records:
                assert await books.usage.insert(each) is None
        month = CalendarMonth.of(clock.now())
        found = sorted(
            await books.usage.list(tenant_id, start=month.start, end=month.end, limit=10),
            key=lambda each: each.event_id,
        )
        assert found == records
        assert [await books.usage.insert(replace(each, id=uuid7(clock))) for each in records] == [
            each.body_sha256() for each in records
        ]
        kept.append([replace(each, id=tenant_id, tenant_id=tenant_id) for each in found])
    assert [replace(each, id=kept[1][0].id, tenant_id=kept[1][0].id) for each in kept[0]] == kept[1]


async def test_the_same_event_id_of_another_tenant_or_source_is_another_event(
    books: Books, clock: ManualClock
) -> None:
    first, second = uuid7(clock), uuid7(clock)
    assert await books.usage.insert(a_record(clock, tenant_id=first)) is None
    assert await books.usage.insert(a_record(clock, tenant_id=second)) is None
    assert await books.usage.insert(a_record(clock, tenant_id=first, source="quantization")) is None


async def test_resending_at_the_same_time_counts_once(books: Books, clock: ManualClock) -> None:
    tenant_id = uuid7(clock)
    record = a_record(clock, tenant_id=tenant_id)
    metering = MeteringService(store=books.usage)
    results = await asyncio.gather(*(metering.record(replace(record, id=uuid7(clock))) for _ in range(12)))
    assert sorted(results) == [False] * 11 + [True]


async def test_totals_are_exact_per_tier_and_meter_and_end_before_the_next_month(
    books: Books, clock: ManualClock
) -> None:
    tenant_id = uuid7(clock)
    month = CalendarMonth.of(clock.now())
    big = UsageQuantities(input_tokens=2**60)
    times = (month.start, month.end - timedelta(microseconds=1), month.end)
    for number, moment in enumerate(times):
        for tier in (TenantTier.TEAM, TenantTier.BUSINESS):
            record = a_record(
                clock,
                tenant_id=tenant_id,
                event_id=f"{tier}-{number}",
                tier=tier,
                occurred_at=moment,
                quantities=big,
            )
            assert await books.usage.insert(record) is None
    await books.usage.insert(a_record(clock, tenant_id=uuid7(clock)))
    totals = await books.usage.totals(tenant_id, start=month.start, end=month.end)
    assert list(totals) == [
        UsageTotal(TenantTier.BUSINESS, Meter.COMPUTE_MS, 500),
        UsageTotal(TenantTier.BUSINESS, Meter.INPUT_TOKENS, 2**61),
        UsageTotal(TenantTier.TEAM, Meter.COMPUTE_MS, 500),
        UsageTotal(TenantTier.TEAM, Meter.INPUT_TOKENS, 2**61),
    ]


async def two_tenants(books: Books, clock: ManualClock) -> tuple[UUID, UUID]:
    found = []
    for name in ("a", "b"):
        tenant = Tenant(id=uuid7(clock), organization_name=name, tier=TenantTier.TEAM, created_at=clock.now())
        await books.tenants.add_tenant(tenant)
        found.append(tenant.id)
    first, second = sorted(found)
    return first, second


async def test_the_activity_of_all_tenants_in_a_period(books: Books, clock: ManualClock) -> None:
    first, second = await two_tenants(books, clock)
    start = clock.now()
    for tenant_id, moment in (
        (first, start),
        (first, start + timedelta(seconds=59)),
        (second, start),
        (second, start - timedelta(microseconds=1)),
        (second, start + timedelta(minutes=1)),
    ):
        await books.usage.insert(
            replace(a_record(clock, tenant_id=tenant_id, event_id=uuid7(clock).hex), occurred_at=moment)
        )
    compute = 250
    assert await books.usage.activity(start=start, end=start + timedelta(minutes=1)) == [
        TenantActivity(tenant_id=first, requests=2, compute_ms=2 * compute),
        TenantActivity(tenant_id=second, requests=1, compute_ms=compute),
    ]
    assert list(await books.usage.activity(start=start, end=start)) == []


async def test_tokens_are_summed_by_tier_model_and_hour_of_utc(books: Books, clock: ManualClock) -> None:
    first, second = await two_tenants(books, clock)
    noon = clock.now().replace(minute=0, second=0, microsecond=0)
    east = timezone(timedelta(hours=5, minutes=30))
    for number, (tenant_id, moment, model) in enumerate(
        (
            (first, noon, "m"),
            (second, (noon + timedelta(minutes=59, seconds=59, microseconds=999999)).astimezone(east), "m"),
            (first, noon + timedelta(hours=1), "m"),
            (first, noon, "n"),
            (first, noon + timedelta(hours=24), "m"),
        )
    ):
        record = a_record(clock, tenant_id=tenant_id, event_id=str(number))
        await books.usage.insert(replace(record, occurred_at=moment, model=model))
    silent = a_record(clock, tenant_id=first, event_id="silent")
    await books.usage.insert(replace(silent, occurred_at=noon, model="z", quantities=UsageQuantities()))
    tier, tokens = TenantTier.TEAM, 18
    found = await books.usage.hourly_tokens(start=noon, end=noon + timedelta(hours=24))
    assert [(each.tier, each.model, each.hour, each.tokens) for each in found] == [
        (tier, "m", noon, 2 * tokens),
        (tier, "m", noon + timedelta(hours=1), tokens),
        (tier, "n", noon, tokens),
    ]
    assert found[0].compute_ms == 500


async def test_pages_follow_each_other_without_gap_or_overlap(books: Books, clock: ManualClock) -> None:
    tenant_id = uuid7(clock)
    for number in range(7):
        await books.usage.insert(a_record(clock, tenant_id=tenant_id, event_id=str(number)))
        clock.advance(seconds=0.5)
    month = CalendarMonth.of(clock.now())
    seen: list[str] = []
    after = None
    while page := await books.usage.list(tenant_id, start=month.start, end=month.end, limit=3, after=after):
        seen += [record.event_id for record in page]
        after = page[-1].id
    assert seen == [str(number) for number in range(7)]


async def test_nobody_sees_the_usage_of_another_tenant(books: Books, clock: ManualClock) -> None:
    await books.usage.insert(a_record(clock, tenant_id=uuid7(clock)))
    month = CalendarMonth.of(clock.now())
    stranger = uuid7(clock)
    assert not await books.usage.list(stranger, start=month.start, end=month.end, limit=10)
    assert not await books.usage.totals(stranger, start=month.start, end=month.end)
