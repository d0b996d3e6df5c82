"""Lists that are read in pages: every row comes once, in order, and only those of whom was asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from tritium_platform.adapters.memory.books_reader import MemoryRunStore
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.sql.reconciliation_store import SqlRunStore
from tritium_platform.billing.contract import Contract
from tritium_platform.billing.invoice import CreditGrant
from tritium_platform.billing.rating.plan_json import plan_from_dict, plan_id
from tritium_platform.billing.reconciliation.model import ReconciliationRun
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock

START = datetime(2026, 1, 1, tzinfo=UTC)


async def read_pages(page: Callable[..., Awaitable[Sequence[Any]]], *, limit: int) -> list[Any]:
    """Follow the cursors to the end; no page is longer than its limit."""
    found: list[Any] = []
    after: UUID | None = None
    while rows := await page(limit=limit, after=after):
        assert len(rows) <= limit
        found += rows
        after = rows[-1].id
    return found


async def test_credit_is_listed_in_pages(books: Books, clock: ManualClock) -> None:
    tenants = [uuid7(clock), uuid7(clock)]
    grants = [
        CreditGrant(
            id=uuid7(clock),
            tenant_id=tenants[number % 2],
            currency="EUR",
            amount_minor=number + 1,
            remaining_minor=number,
            reason="prepaid",
            created_at=clock.now(),
        )
        for number in range(10)
    ]
    for each in grants:
        await books.money.credits.add(each)
    grants.sort(key=lambda each: each.id)  # ids of one millisecond come in any order
    for tenant_id in tenants:
        mine = [each for each in grants if each.tenant_id == tenant_id]
        assert list(await books.money.credits.list(tenant_id)) == mine
        for limit in (1, 2, 5, 100):
            assert await read_pages(partial(books.money.credits.list, tenant_id), limit=limit) == mine


async def test_contracts_are_listed_in_pages_by_their_starts(books: Books, clock: ManualClock) -> None:
    plan = plan_from_dict(
        {
            "name": "seat",
            "currency": "EUR",
            "charges": [{"name": "seat", "price": {"kind": "flat", "amount": "1.00 EUR"}}],
        }
    )
    await books.plans.add_plan(plan, at=START)
    tenant_id, other = uuid7(clock), uuid7(clock)
    made = [
        Contract(
            id=uuid7(clock),
            tenant_id=tenant_id,
            plan_id=plan_id(plan),
            starts_at=START + timedelta(days=day),
            created_at=START,
        )
        for day in (5, 1, 4, 2, 3)  # concluded in another order than they start
    ]
    foreign = Contract(
        id=uuid7(clock), tenant_id=other, plan_id=plan_id(plan), starts_at=START, created_at=START
    )
    for each in (*made, foreign):
        assert await books.plans.add_contract(each)
    wanted = sorted(made, key=lambda each: each.starts_at)
    assert list(await books.plans.list_contracts(tenant_id)) == wanted
    for limit in (1, 2, 5, 100):
        assert await read_pages(partial(books.plans.list_contracts, tenant_id), limit=limit) == wanted
    # Another tenant's contract is no place in this tenant's list.
    assert list(await books.plans.list_contracts(tenant_id, limit=9, after=foreign.id)) == []


async def test_runs_of_the_reconciliation_are_listed_in_pages(books: Books, clock: ManualClock) -> None:
    database = books.database
    store = MemoryRunStore(database) if isinstance(database, MemoryDatabase) else SqlRunStore(database)
    runs = [
        ReconciliationRun(
            id=uuid7(clock),
            started_at=START,
            finished_at=START,
            counted={"uses": number},
            num_differences=0,
            differences=(),
        )
        for number in range(5)
    ]
    for each in runs:
        await store.add(each)
    for limit in (1, 2, 5, 100):
        assert await read_pages(store.list, limit=limit) == sorted(runs, key=lambda run: run.id, reverse=True)
