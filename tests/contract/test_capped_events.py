"""Events that others report count against spend caps, exactly and on every kind of books."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tritium_platform.adapters.capped_ingestion import CappedIngestion
from tritium_platform.adapters.ingestion_trail import AuditedIngestion
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.spend_store import MemorySpendStore
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.spend_store import SqlSpendStore
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.model import MeterPrice, PriceVersion
from tritium_platform.errors import OverloadedError, SpendCapReachedError
from tritium_platform.metering.event import LARGEST_EVENT_QUANTITY, ReportedEvent, Sender
from tritium_platform.metering.event_writer import EventWriter, Ingested
from tritium_platform.metering.ingestion import Ingestion
from tritium_platform.metering.model import Meter
from tritium_platform.quotas.model import QuotaMeter
from tritium_platform.quotas.spend_cap import MICRO, SpendCap, SpendMode
from tritium_platform.quotas.spending import SpendService
from tritium_platform.tenancy.model import TIER_LIMITS, TenantContext, TenantTier

if TYPE_CHECKING:
    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock

# A third of a cent for a token that is read, 7 cents for one that is written.
PRICES = {Meter.INPUT_TOKENS: MeterPrice(Fraction(1, 3)), Meter.OUTPUT_TOKENS: MeterPrice(Fraction(7), 1000)}
TENANT, OTHER = UUID(int=9), UUID(int=8)
CONTEXT = TenantContext(
    tenant_id=TENANT,
    organization_name="Acme",
    tier=TenantTier.TEAM,
    limits=TIER_LIMITS[TenantTier.TEAM],
    key_id="key",
    scopes=frozenset(),
)
SENDER = Sender(tiers=dict.fromkeys((TENANT, OTHER), TenantTier.TEAM))


def service_of(books: Books, clock: ManualClock) -> SpendService:
    database: Any = books.database
    store = MemorySpendStore if isinstance(database, MemoryDatabase) else SqlSpendStore
    return SpendService(
        store=store(database),
        reservations=books.reservations,
        trail=books.outbox,  # type: ignore[arg-type]  # every outbox takes intents
        unit_of_work=books.unit_of_work,
        clock=clock,
        reservation_seconds=900,
    )


async def capped(books: Books, clock: ManualClock, amount: int, **values: Any) -> SpendService:
    spending = service_of(books, clock)
    cap = SpendCap(tenant_id=TENANT, amount_minor=amount, currency="USD", **values)
    await spending.set_cap(cap, spent=0, actor="test")
    return spending


async def spend(spending: SpendService, amount: int) -> None:
    (held,) = await spending.hold(CONTEXT, amounts=[amount])
    await spending.settle(held, amount=amount)


async def alerts(books: Books) -> list[int]:
    entries = await books.outbox.pending(limit=10_000)
    return [int(str(each.details["threshold"])) for each in entries if each.action == "spend.alert"]


async def ingestion_of(books: Books, spending: SpendService, clock: ManualClock) -> Ingestion:
    prices = BillingService(prices=books.prices, clock=clock)
    await prices.publish_prices(
        PriceVersion(
            currency="USD", valid_from=datetime(2026, 1, 1, tzinfo=UTC), prices={TenantTier.TEAM: PRICES}
        )
    )
    writer = EventWriter(
        store=books.events,
        trail=AuditedIngestion(intents=books.outbox, clock=clock),
        unit_of_work=books.unit_of_work,
        clock=clock,
        caps=CappedIngestion(spending=spending, prices=prices, clock=clock),
    )
    return Ingestion(writer=writer, clock=clock)


def an_event(clock: ManualClock, name: str, quantity: int, **changes: Any) -> ReportedEvent:
    fields = {"meter": "input_tokens", "event_time": clock.now(), "tenant_id": TENANT}
    return ReportedEvent(**{"source": "s", "id": name, "quantity": quantity, **fields, **changes})


async def used(books: Books, *, tenant_id: UUID = TENANT, period: str = "2026-11") -> int:
    counter = await books.reservations.counter(tenant_id, meter=QuotaMeter.SPEND, period=period)
    return counter.used if counter else 0


async def test_events_raise_alerts_and_beyond_the_cap_requests_are_refused(
    books: Books, clock: ManualClock
) -> None:
    spending = await capped(books, clock, 100)
    ingestion = await ingestion_of(books, spending, clock)
    await spend(spending, 10 * MICRO)
    first = [an_event(clock, "1", 90), an_event(clock, "2", 1, meter="output_tokens")]
    await ingestion.ingest([*first, an_event(clock, "3", 10**6, tenant_id=OTHER)], sender=SENDER)
    assert await used(books) == 47 * MICRO
    assert await alerts(books) == []
    assert await ingestion.ingest(first, sender=SENDER) == [Ingested.DUPLICATE] * 2
    assert await used(books) == 47 * MICRO
    await ingestion.ingest([an_event(clock, "4", 100)], sender=SENDER)  # a third is rounded up
    assert await used(books) == 80 * MICRO + 333_334
    assert sorted(await alerts(books)) == [50, 80]
    await ingestion.ingest([an_event(clock, "5", 300)], sender=SENDER)  # over: it happened, and is taken in
    assert await used(books) == 180 * MICRO + 333_334
    assert sorted(await alerts(books)) == [50, 80, 100]
    with pytest.raises(SpendCapReachedError) as caught:
        await spending.hold(CONTEXT, amounts=[1])
    assert caught.value.details["remaining"] == "0.00 USD"
    raised = SpendCap(tenant_id=TENANT, amount_minor=200, currency="USD")
    await spending.set_cap(raised, spent=0, actor="test")
    await spend(spending, 19 * MICRO)
    with pytest.raises(SpendCapReachedError):
        await spending.hold(CONTEXT, amounts=[MICRO])
    assert await used(books, tenant_id=OTHER) == 0


async def test_what_runs_when_events_go_beyond_the_cap_is_settled_in_full(
    books: Books, clock: ManualClock
) -> None:
    spending = await capped(books, clock, 100)
    ingestion = await ingestion_of(books, spending, clock)
    (held,) = await spending.hold(CONTEXT, amounts=[60 * MICRO])
    await ingestion.ingest([an_event(clock, "1", 240)], sender=SENDER)
    await spending.settle(held, amount=60 * MICRO)
    status = await spending.status(TENANT)
    assert status is not None
    assert (status.counter.used, status.counter.held, sorted(status.alerts)) == (
        140 * MICRO,
        0,
        [50, 80, 100],
    )


async def test_an_event_counts_in_its_month_and_after_it_is_billed_only(
    books: Books, clock: ManualClock
) -> None:
    spending = await capped(books, clock, 100)
    ingestion = await ingestion_of(books, spending, clock)
    clock.advance(seconds=(datetime(2026, 11, 30, 23, 30, tzinfo=UTC) - clock.now()).total_seconds())
    ahead, late = clock.now() + timedelta(minutes=40), clock.now() - timedelta(days=40)
    events = [an_event(clock, "1", 30), an_event(clock, "2", 60, event_time=ahead)]
    await ingestion.ingest([*events, an_event(clock, "3", 300, event_time=late)], sender=SENDER)
    assert [await used(books, period=f"2026-{month}") for month in (10, 11, 12)] == [
        0,
        10 * MICRO,
        20 * MICRO,
    ]
    assert await alerts(books) == []


async def test_a_cap_in_shadow_mode_counts_events_and_alerts(books: Books, clock: ManualClock) -> None:
    spending = await capped(books, clock, 100, mode=SpendMode.SHADOW)
    ingestion = await ingestion_of(books, spending, clock)
    await ingestion.ingest([an_event(clock, "1", 600)], sender=SENDER)
    assert sorted(await alerts(books)) == [50, 80, 100]
    await spend(spending, MICRO)
    status = await spending.status(TENANT)
    assert status is not None
    assert (status.counter.used, status.would_refuse) == (201 * MICRO, 1)


async def test_no_sum_of_events_is_too_large_to_be_counted(books: Books, clock: ManualClock) -> None:
    """Thousands of the largest would not fit into 64 bits: the counter stops beyond every cap."""
    spending = await capped(books, clock, 2**42 - 1)
    ingestion = await ingestion_of(books, spending, clock)
    for turn in range(3):
        largest = LARGEST_EVENT_QUANTITY
        events = [an_event(clock, f"{turn}-{each}", largest, meter="output_tokens") for each in range(9)]
        assert await ingestion.ingest(events, sender=SENDER) == [Ingested.ACCEPTED] * 9
    assert sorted(await alerts(books)) == [50, 80, 100]
    with pytest.raises(SpendCapReachedError):
        await spending.hold(CONTEXT, amounts=[1])


async def test_events_that_are_not_kept_do_not_count(books: Books, clock: ManualClock) -> None:
    spending = await capped(books, clock, 100)
    ingestion = await ingestion_of(books, spending, clock)

    async def fail(*_: object, **__: object) -> None:
        raise OverloadedError("The database went away.")

    spending._alerts.raise_reached = fail  # type: ignore[method-assign]  # the last step of the transaction
    with pytest.raises(OverloadedError):
        await ingestion.ingest([an_event(clock, "1", 300)], sender=SENDER)
    del spending._alerts.raise_reached  # type: ignore[method-assign]
    assert await used(books) == 0
    assert await ingestion.ingest([an_event(clock, "1", 300)], sender=SENDER) == [Ingested.ACCEPTED]
    assert await used(books) == 100 * MICRO


async def test_several_gateways_count_the_same_events_once_beside_requests(
    sql_books: Books, sql_url: str, clock: ManualClock, books_in: Any
) -> None:
    databases = [Database(sql_url, pool_size=3) for _ in range(2)]
    gateways = [sql_books, *(books_in(each) for each in databases)]
    spendings = [service_of(each, clock) for each in gateways]
    for tenant_id in (TENANT, OTHER):
        cap = SpendCap(tenant_id=tenant_id, amount_minor=10_000, currency="USD")
        await spendings[0].set_cap(cap, spent=0, actor="test")
    for spending in spendings:
        await spending.refresh()
    ingestions = [
        await ingestion_of(books, spending, clock)
        for books, spending in zip(gateways, spendings, strict=True)
    ]
    events = [
        an_event(clock, f"{number}", 3, tenant_id=tenant_id)
        for number in range(200)
        for tenant_id in (TENANT, OTHER)
    ]

    async def send(place: int) -> int:
        ordered, accepted = events[:: 1 if place % 2 else -1], 0
        for start in range(0, len(ordered), 50):
            sent = await ingestions[place].ingest(ordered[start : start + 50], sender=SENDER)
            accepted += sent.count(Ingested.ACCEPTED)
            await spend(spendings[place], MICRO)
        return accepted

    try:
        assert sum(await asyncio.gather(*(send(place) for place in range(3)))) == len(events)
        assert await used(sql_books) == (200 + 3 * 8) * MICRO
        assert await used(sql_books, tenant_id=OTHER) == 200 * MICRO
    finally:
        for each in databases:
            await each.close()
