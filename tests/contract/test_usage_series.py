"""Sums of uses by time and by what: pages put together are what a loop over the records counts."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.errors import ValidationError
from tritium_platform.insight.analytics import AnalyticsService, Dimension, Growth, Step, UsagePoint
from tritium_platform.insight.health import OutcomeKind
from tritium_platform.metering.model import Meter, OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from conftest import Books

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
HOUR, WEEK = timedelta(hours=1), timedelta(days=7)
MODELS = ("größte-✓", "Zebra", "alpha", "B", "")


def a_use(chance: random.Random, tenant_id: UUID, number: int) -> UsageRecord:
    zone = timezone(timedelta(hours=chance.choice((-7, 0, 9))))
    return UsageRecord(
        id=uuid7(),
        tenant_id=tenant_id,
        source="gateway",
        event_id=str(number),
        operation=chance.choice((OperationType.CHAT, OperationType.EMBEDDING)),
        tier=chance.choice(list(TenantTier)),
        outcome=chance.choice(("success", "failed")),
        occurred_at=(NOW - chance.random() * 16 * timedelta(days=1)).astimezone(zone),
        quantities=UsageQuantities(input_tokens=chance.randrange(3), output_tokens=chance.randrange(9)),
        resources=ResourceUsage(compute_time_ms=chance.randrange(2)),
        model=chance.choice(MODELS),
        key_id=chance.choice(("a" * 12, "B" * 12, None)),
    )


async def used(books: Books, *, seed: int = 1) -> tuple[UUID, list[UsageRecord]]:
    """Record the uses of a tenant, and some of another one."""
    chance, tenant_id = random.Random(seed), uuid7()
    records = [a_use(chance, tenant_id, number) for number in range(120)]
    await books.usage.insert_all([*records, *(a_use(chance, uuid7(), number) for number in range(20))])
    return tenant_id, records


def name_of(record: UsageRecord, dimension: Dimension | None) -> str:
    if dimension is None:
        return ""
    return {
        Dimension.MODEL: record.model,
        Dimension.STATUS: record.outcome,
        Dimension.OPERATION: record.operation.value,
        Dimension.KEY: record.key_id or "",
        Dimension.TIER: record.tier.value,
        Dimension.DEVICE: record.device,
    }[dimension]


def counted(
    records: list[UsageRecord], *, start: datetime, end: datetime, step: Step, dimension: Dimension | None
) -> list[UsagePoint]:
    """The slow twin."""
    groups: defaultdict[tuple[datetime, bytes], list[UsageRecord]] = defaultdict(list)
    for record in records:
        if start <= record.occurred_at < end:
            at = record.occurred_at.astimezone(UTC)
            moment = datetime(at.year, at.month, at.day, at.hour if step is Step.HOUR else 0, tzinfo=UTC)
            groups[moment, name_of(record, dimension).encode()].append(record)
    points = []
    for (moment, name), mine in sorted(groups.items()):
        meters: Counter[Meter] = Counter()
        for record in mine:
            meters[Meter.INPUT_TOKENS] += record.quantities.input_tokens
            meters[Meter.OUTPUT_TOKENS] += record.quantities.output_tokens
            meters[Meter.COMPUTE_MS] += record.resources.compute_time_ms
        points.append(
            UsagePoint(start=moment, name=name.decode(), uses=len(mine), meters=dict(meters + Counter()))
        )
    return points


@pytest.mark.parametrize("step", Step)
async def test_pages_of_a_series_are_what_a_loop_counts(books: Books, step: Step) -> None:
    tenant_id, records = await used(books)
    start, end = NOW - 15 * timedelta(days=1), NOW - HOUR
    for dimension in (None, *Dimension):
        pages: list[UsagePoint] = []
        while page := await books.series.series(
            tenant_id,
            start=start,
            end=end,
            step=step,
            dimension=dimension,
            limit=17,
            after=(pages[-1].start, pages[-1].name) if pages else None,
        ):
            pages += page
        assert pages == counted(records, start=start, end=end, step=step, dimension=dimension)
        assert pages


async def test_the_busiest_come_first_and_equals_by_name(books: Books) -> None:
    tenant_id, records = await used(books)
    start, end = NOW - 15 * timedelta(days=1), NOW
    for dimension in Dimension:
        uses = Counter(name_of(each, dimension) for each in records if start <= each.occurred_at < end)
        busiest = sorted(uses, key=lambda name: (-uses[name], name.encode()))[:2]
        found = await books.series.top(tenant_id, start=start, end=end, dimension=dimension, limit=2)
        assert [(each.name, each.uses) for each in found] == [(name, uses[name]) for name in busiest]
        assert all(each.start == start for each in found)


async def test_a_summary_says_what_the_records_say(books: Books) -> None:
    tenant_id, records = await used(books)
    clock = ManualClock(NOW)
    prices = BillingService(prices=books.prices, clock=clock)
    await prices.publish_prices(default_price_version())
    await books.outcomes.count(
        tenant_id, hour=NOW.replace(minute=0), kind=OutcomeKind.SUCCESS, latency_bucket=7, times=3
    )
    analytics = AnalyticsService(series=books.series, outcomes=books.outcomes, prices=prices, clock=clock)
    summary = await analytics.summarize(tenant_id)
    end = datetime(2026, 11, 20, 10, tzinfo=UTC)
    weeks = [
        [each for each in records if begin <= each.occurred_at < begin + WEEK]
        for begin in (end - WEEK, end - 2 * WEEK)
    ]
    assert summary.as_of == end
    assert summary.uses == Growth(*map(len, weeks))
    assert summary.tokens == Growth(*(sum(map(tokens_of, week)) for week in weeks))
    assert summary.outcomes == {**dict.fromkeys(OutcomeKind, 0), OutcomeKind.SUCCESS: 3}
    assert summary.latency_ms == {50: 128, 95: 128, 99: 128}
    assert summary.top_models[0].uses == max(Counter(each.model for each in weeks[0]).values())
    month, version = CalendarMonth.of(NOW), default_price_version()
    spent = sum(
        version.price_of(meter, tier=each.tier).unit_price * count
        for each in records
        if month.start <= each.occurred_at < NOW.replace(minute=0)
        for meter, count in each.metered().items()
    )
    assert abs(summary.month_end.spent_micro - spent * 1_000_000) <= len(records)  # an hour is rounded once
    assert summary.month_end.expected_micro is not None
    assert summary.month_end.expected_micro >= summary.month_end.spent_micro


def tokens_of(record: UsageRecord) -> int:
    return record.quantities.input_tokens + record.quantities.output_tokens


async def test_a_series_that_is_too_long_or_empty_is_refused(books: Books) -> None:
    clock = ManualClock(NOW)
    analytics = AnalyticsService(
        series=books.series,
        outcomes=books.outcomes,
        prices=BillingService(prices=books.prices, clock=clock),
        clock=clock,
    )
    for start, step in ((NOW - timedelta(days=32), Step.HOUR), (NOW, Step.DAY), (NOW + HOUR, Step.DAY)):
        with pytest.raises(ValidationError, match="is of at most"):
            await analytics.series(uuid7(), start=start, end=NOW, step=step, dimension=None, limit=9)
