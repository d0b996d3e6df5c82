"""Spend caps: nothing is ever spent beyond one, and every alert is raised once, on every kind of books."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import event

from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.spend_store import MemorySpendStore
from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.spend_store import SqlSpendStore
from tritium_platform.errors import (
    ErrorCategory,
    OverloadedError,
    Recovery,
    SpendCapReachedError,
    ValidationError,
)
from tritium_platform.quotas.model import QuotaMeter
from tritium_platform.quotas.spend_cap import MICRO, SpendCap, SpendMode
from tritium_platform.quotas.spending import SpendService
from tritium_platform.tenancy.model import TIER_LIMITS, TenantContext, TenantTier

if TYPE_CHECKING:
    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock

TENANT = UUID(int=9)
CONTEXT = TenantContext(
    tenant_id=TENANT,
    organization_name="Acme",
    tier=TenantTier.TEAM,
    limits=TIER_LIMITS[TenantTier.TEAM],
    key_id="key",
    scopes=frozenset(),
)
AT = datetime(2026, 11, 3, tzinfo=UTC)


def store_of(books: Books) -> Any:
    database = books.database
    return MemorySpendStore(database) if isinstance(database, MemoryDatabase) else SqlSpendStore(database)


def service_of(books: Books, clock: ManualClock) -> SpendService:
    """A service as a process has it after its start."""
    return SpendService(
        store=store_of(books),
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


async def spend(spending: SpendService, amount: int, *, most: int | None = None) -> None:
    (held,) = await spending.hold(CONTEXT, amounts=[amount if most is None else most])
    await spending.settle(held, amount=amount)


async def alerts(books: Books) -> list[int]:
    entries = await books.outbox.pending(limit=10_000)
    return [int(str(each.details["threshold"])) for each in entries if each.action == "spend.alert"]


async def test_a_store_keeps_one_cap_a_tenant_and_every_mark_once(books: Books) -> None:
    store = store_of(books)
    first = SpendCap(tenant_id=TENANT, amount_minor=5, currency="USD")
    second = SpendCap(tenant_id=TENANT, amount_minor=7, currency="EUR", mode=SpendMode.SHADOW)
    other = SpendCap(tenant_id=UUID(int=3), amount_minor=7, currency="EUR")
    for cap in (first, second, other):
        await store.put(cap)
    assert await store.caps() == [other, second]
    assert await store.remove(other.tenant_id)
    assert not await store.remove(other.tenant_id)
    assert await store.mark(TENANT, period="2026-11", name="50", at=AT)
    assert not await store.mark(TENANT, period="2026-11", name="50", at=AT + timedelta(1))
    assert await store.mark(TENANT, period="2026-12", name="50", at=AT)
    (mark,) = await store.marks(TENANT, period="2026-11")
    assert (mark.name, mark.count, mark.created_at) == ("50", 2, AT)
    await store.unmark(TENANT, period="2026-11", names=["80", "50"])
    assert await store.marks(TENANT, period="2026-11") == []
    assert len(await store.marks(TENANT, period="2026-12")) == 1
    assert await store.mark(TENANT, period="2026-11", name="50", at=AT)


async def test_nobody_is_asked_anything_without_a_cap(books: Books, clock: ManualClock) -> None:
    spending = service_of(books, clock)
    await spending.refresh()
    assert await spending.hold(CONTEXT, amounts=[10**9]) == []
    assert await spending.status(TENANT) is None
    assert await books.reservations.counter(TENANT, meter=QuotaMeter.SPEND, period="2026-11") is None


async def test_a_request_that_could_cost_more_than_is_left_is_refused_with_what_is_left(
    books: Books, clock: ManualClock
) -> None:
    spending = await capped(books, clock, 100)
    await spend(spending, 60 * MICRO)
    with pytest.raises(SpendCapReachedError) as caught:
        await spending.hold(CONTEXT, amounts=[30 * MICRO, 10 * MICRO + 1])  # all or none
    error = caught.value
    assert (error.details["limit"], error.details["remaining"]) == ("1.00 USD", "0.40 USD")
    assert (error.category, error.recovery) == (ErrorCategory.RATE_LIMITED, Recovery.CONTACT_OPERATOR)
    assert error.details["reset_time"] == "2026-12-01T00:00:00+00:00" or clock.now().month != 11
    status = await spending.status(TENANT)
    assert status is not None
    assert (status.counter.used, status.counter.held) == (60 * MICRO, 0)
    assert len(await spending.hold(CONTEXT, amounts=[30 * MICRO, 10 * MICRO])) == 2


async def test_a_thousand_clients_at_once_overshoot_by_nothing(books: Books, clock: ManualClock) -> None:
    """Each reserves the most it can cost, spends less or as much, and never does the sum leave the cap."""
    cap = 10_000
    spending = await capped(books, clock, cap)
    chance = random.Random(5)
    orders = [(chance.randrange(1, 40 * MICRO), chance.random()) for _ in range(1000)]
    spent, refused = 0, 0

    async def client(most: int, share: float) -> None:
        nonlocal spent, refused
        try:
            (held,) = await spending.hold(CONTEXT, amounts=[most])
        except SpendCapReachedError:
            refused += 1
            return
        amount = most if share > 0.5 else int(most * share)
        while True:  # as the gateway does: a settlement that finds no connection is tried again
            try:
                await spending.settle(held, amount=amount)
                break
            except OverloadedError:
                await asyncio.sleep(0.1)
        spent += amount

    await asyncio.gather(*(client(*order) for order in orders))
    status = await spending.status(TENANT)
    assert status is not None
    assert status.counter.used == spent <= cap * MICRO
    assert status.counter.held == 0
    assert refused
    assert spent > cap * MICRO // 2
    assert sorted(await alerts(books)) == [50, 80, 100]


async def test_several_processes_spend_one_cap_and_not_a_millionth_more(
    sql_url: str, clock: ManualClock
) -> None:
    databases, chance = [Database(sql_url, pool_size=2) for _ in range(3)], random.Random(5)
    gateways = [
        SpendService(
            store=SqlSpendStore(each),
            reservations=SqlReservationStore(each),
            trail=SqlAuditOutbox(each),
            unit_of_work=each.unit_of_work,
            clock=clock,
            reservation_seconds=900,
        )
        for each in databases
    ]
    cap = SpendCap(tenant_id=TENANT, amount_minor=200, currency="USD")
    await gateways[0].set_cap(cap, spent=0, actor="test")
    for gateway in gateways[1:]:
        await gateway.refresh()

    async def spend_all_it_can(gateway: SpendService) -> int:
        spent = 0
        while True:
            most = chance.randint(1, 20 * MICRO)
            try:
                (held,) = await gateway.hold(CONTEXT, amounts=[most])
            except SpendCapReachedError:
                return spent
            cost = chance.randint(0, most)
            await gateway.settle(held, amount=cost)
            spent += cost

    try:
        spent = sum(await asyncio.gather(*(spend_all_it_can(gateway) for gateway in gateways)))
        last = 200 * MICRO - spent
        await spend(gateways[1], last)  # to the last millionth, at whichever
        with pytest.raises(SpendCapReachedError):
            await gateways[2].hold(CONTEXT, amounts=[1])
        status = await gateways[2].status(TENANT)
        assert status is not None
        assert (status.counter.used, status.counter.held) == (200 * MICRO, 0)
    finally:
        for each in databases:
            await each.close()


async def test_every_alert_is_raised_once_a_month_also_by_another_process(
    books: Books, clock: ManualClock
) -> None:
    spending = await capped(books, clock, 100)
    for step in range(1, 10):
        await spend(spending, 10 * MICRO)
        assert sorted(await alerts(books)) == [each for each in (50, 80, 100) if step * 10 >= each]
    again = service_of(books, clock)  # the same books after a restart
    await again.refresh()
    await spend(again, 10 * MICRO)
    for _ in range(2):
        with pytest.raises(SpendCapReachedError):
            await again.hold(CONTEXT, amounts=[1])
    assert sorted(await alerts(books)) == [50, 80, 100]
    status = await again.status(TENANT)
    assert status is not None
    assert sorted(status.alerts) == [50, 80, 100]
    clock.advance(seconds=32 * 86_400)
    await spend(again, 50 * MICRO)
    assert sorted(await alerts(books)) == [50, 50, 80, 100]


async def test_a_raised_cap_alerts_anew_and_shows_no_alert_that_it_has_not_reached(
    books: Books, clock: ManualClock
) -> None:
    spending = await capped(books, clock, 100)
    await spend(spending, 90 * MICRO)
    with pytest.raises(SpendCapReachedError):
        await spending.hold(CONTEXT, amounts=[11 * MICRO])
    assert sorted(await alerts(books)) == [50, 80, 100]
    raised = SpendCap(tenant_id=TENANT, amount_minor=150, currency="USD")
    await spending.set_cap(raised, spent=0, actor="test")
    status = await spending.status(TENANT)
    assert status is not None
    assert sorted(status.alerts) == [50]
    assert sorted(await alerts(books)) == [50, 80, 100]  # the log forgets nothing, and half was told before
    await spend(spending, 60 * MICRO)
    assert sorted(await alerts(books)) == [50, 80, 80, 100, 100]
    assert await spending.remove_cap(TENANT, actor="test")
    assert await spending.status(TENANT) is None
    await spending.set_cap(replace(raised, amount_minor=1000), spent=0, actor="test")
    status = await spending.status(TENANT)
    assert status is not None
    assert (status.counter.used, status.alerts) == (150 * MICRO, {})


async def test_what_is_counted_takes_two_statements_and_one_more_from_the_first_alert_on(
    sql_books: Books, clock: ManualClock
) -> None:
    spending = await capped(sql_books, clock, 100)
    assert isinstance(sql_books.database, Database)
    engine, statements = sql_books.database.engine.sync_engine, []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement.split(maxsplit=1)[0])

    async def count() -> list[str]:
        async with sql_books.unit_of_work():
            statements.clear()
            await spending.count(TENANT, amount=20 * MICRO, period="2026-11")
            return list(statements)

    await count()  # the first one of the month makes the counter
    event.listen(engine, "before_cursor_execute", note)
    assert await count() == ["UPDATE", "INSERT"]
    await count()  # 60 %: raises the alert
    assert await count() == ["UPDATE", "INSERT", "SELECT", *["INSERT"] * 2]  # 80 %
    assert sorted(await alerts(sql_books)) == [50, 80]
    await count()
    assert await count() == ["UPDATE", "INSERT", "SELECT"]
    assert sorted(await alerts(sql_books)) == [50, 80, 100]


async def test_a_refusal_is_an_alert_of_a_cap_that_is_reached(books: Books, clock: ManualClock) -> None:
    spending = await capped(books, clock, 100)
    with pytest.raises(SpendCapReachedError):
        await spending.hold(CONTEXT, amounts=[101 * MICRO])
    assert await alerts(books) == [100]


async def test_shadow_mode_refuses_nothing_and_counts_what_it_would(books: Books, clock: ManualClock) -> None:
    spending = await capped(books, clock, 100, mode=SpendMode.SHADOW)
    for _ in range(5):
        await spend(spending, 30 * MICRO)
    status = await spending.status(TENANT)
    assert status is not None
    assert (status.counter.used, status.would_refuse) == (150 * MICRO, 2)
    cap = SpendCap(tenant_id=TENANT, amount_minor=100, currency="USD")
    await spending.set_cap(cap, spent=0, actor="test")  # from now on in earnest
    with pytest.raises(SpendCapReachedError):
        await spending.hold(CONTEXT, amounts=[1])


async def test_what_was_spent_before_there_was_a_cap_counts(books: Books, clock: ManualClock) -> None:
    spending = service_of(books, clock)
    cap = SpendCap(tenant_id=TENANT, amount_minor=100, currency="USD")
    await spending.set_cap(cap, spent=85 * MICRO, actor="test")
    assert sorted(await alerts(books)) == [50, 80]
    await spending.set_cap(cap, spent=85 * MICRO, actor="test")  # known already
    await spend(spending, 15 * MICRO)
    with pytest.raises(SpendCapReachedError):
        await spending.hold(CONTEXT, amounts=[1])
    assert await spending.remove_cap(TENANT, actor="test")
    assert not await spending.remove_cap(TENANT, actor="test")
    assert await spending.hold(CONTEXT, amounts=[10**9]) == []


async def test_what_failed_costs_nothing_and_what_cost_more_is_used_as_far_as_it_fits(
    books: Books, clock: ManualClock
) -> None:
    spending = await capped(books, clock, 100)
    (held,) = await spending.hold(CONTEXT, amounts=[50 * MICRO])
    await spending.void(held.id, tenant_id=TENANT)
    await spend(spending, 20 * MICRO, most=10 * MICRO)
    status = await spending.status(TENANT)
    assert status is not None
    assert (status.counter.used, status.counter.held) == (20 * MICRO, 0)
    with pytest.raises(ValidationError):
        SpendCap(tenant_id=TENANT, amount_minor=0, currency="USD")
    with pytest.raises(ValidationError):
        SpendCap(tenant_id=TENANT, amount_minor=5, currency="XXX")


async def test_a_request_that_ends_in_the_next_month_alerts_of_the_month_it_belongs_to(
    books: Books, clock: ManualClock
) -> None:
    spending = await capped(books, clock, 100)
    (held,) = await spending.hold(CONTEXT, amounts=[90 * MICRO])
    clock.advance(seconds=(datetime(2026, 12, 1, tzinfo=UTC) - clock.now()).total_seconds())
    await spending.settle(held, amount=90 * MICRO)
    assert sorted(await alerts(books)) == [50, 80]
    status = await spending.status(TENANT)
    assert status is not None
    assert (status.period, status.counter.used, sorted(status.alerts)) == ("2026-12", 0, [])
    await spend(spending, 60 * MICRO)  # December has an alert of its own
    assert sorted(await alerts(books)) == [50, 50, 80]


async def test_of_what_cost_more_than_is_left_the_rest_is_used_in_the_month_of_the_request(
    books: Books, clock: ManualClock
) -> None:
    spending = await capped(books, clock, 100)
    (held,) = await spending.hold(CONTEXT, amounts=[10 * MICRO])
    clock.advance(seconds=(datetime(2026, 12, 1, tzinfo=UTC) - clock.now()).total_seconds())
    await spending.settle(held, amount=150 * MICRO)
    november = await books.reservations.counter(TENANT, meter=QuotaMeter.SPEND, period="2026-11")
    assert november is not None
    assert (november.used, november.held) == (100 * MICRO, 0)
    assert sorted(await alerts(books)) == [50, 80, 100]
    assert await books.reservations.counter(TENANT, meter=QuotaMeter.SPEND, period="2026-12") is None
