"""Contracts, drafts and invoices of a tenant at the same time: what came first is what the others see."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium_platform.adapters.sql.database import Database
from tritium_platform.audit.note import NoteSigner
from tritium_platform.billing.contract import UNTAXED
from tritium_platform.billing.desk import open_desk, open_payments
from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.model import MeterPrice, PriceVersion
from tritium_platform.billing.plans import PlanService
from tritium_platform.billing.rating.plan_json import plan_from_dict
from tritium_platform.errors import ConflictError
from tritium_platform.metering.model import (
    Meter,
    OperationType,
    ResourceUsage,
    UsageQuantities,
    UsageRecord,
)
from tritium_platform.tenancy.model import ApiKey, Scope, Tenant, TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from uuid import UUID

    from conftest import Books

    from tritium_platform.billing.contract import Contract
    from tritium_platform.billing.invoice import Invoice
    from tritium_platform.values import UnitOfWork

SEPTEMBER = CalendarMonth(2026, 9)
NOON_17 = datetime(2026, 9, 17, 12, tzinfo=UTC)
CURRENCIES = ("CHF", "EUR", "GBP", "JPY", "SEK", "USD")
ROUNDS = range(3)
PATIENCE = 0.4  # where one writes at a time, nobody comes in between


def a_plan(currency: str) -> dict[str, Any]:
    seat = {"name": "seat", "price": {"kind": "flat", "amount": "700"}}
    return {"name": "seats", "currency": currency, "charges": [seat]}


class Interruption:
    """Something that begins once somebody has looked at the invoices, and whose end the looker awaits."""

    def __init__(self, work: Callable[[], Awaitable[Any]]) -> None:
        self._looked = asyncio.Event()
        self.task = asyncio.create_task(self._run(work))

    async def _run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        await self._looked.wait()
        return await work()

    async def happen(self) -> None:
        self._looked.set()
        await asyncio.wait([self.task], timeout=PATIENCE)


class InterruptedInvoices:
    """Says what the store of invoices says, and then somebody else comes in between."""

    def __init__(self, books: Books, interruption: Interruption) -> None:
        self._store = books.money.invoices
        self._interruption = interruption

    async def list(self, **wish: Any) -> Sequence[Invoice]:
        found = await self._store.list(**wish)
        await self._interruption.happen()
        return found

    async def last_period(self, tenant_id: UUID) -> CalendarMonth | None:
        found = await self._store.last_period(tenant_id)
        await self._interruption.happen()
        return found


def interrupted_work(books: Books, interruption: Interruption, *, place: int) -> UnitOfWork:
    """Return units of work before the `place`-th of which somebody else comes in between."""
    left = place

    @asynccontextmanager
    async def unit_of_work() -> AsyncIterator[None]:
        nonlocal left
        left -= 1
        if not left:
            await interruption.happen()
        async with books.unit_of_work():
            yield

    return unit_of_work


class Shop:
    """What bills tenants over a set of books."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.clock: Any = books.money.clock
        self.prices = BillingService(prices=books.prices, clock=self.clock)
        self.desk = self.desk_over(books.money)

    def desk_over(self, money: Any) -> Any:
        return open_desk(
            money,
            plan_store=self.books.plans,
            prices=self.prices,
            tenants=self,
            signer=NoteSigner("example/audit", private_key=Ed25519PrivateKey.from_private_bytes(b"7" * 32)),
            grace_days=None,
            payments=open_payments(money, events=self.books.notices),
        )

    async def list_tenants(self) -> list[Any]:
        return []

    async def customer(self) -> UUID:
        tenant = Tenant(uuid7(), "Acme", TenantTier.TEAM, self.clock.now())
        await self.books.tenants.add_tenant(tenant)
        return tenant.id

    async def use(self, tenant_id: UUID, *, at: datetime) -> None:
        """Publish a price list, and use something."""
        prices = {TenantTier.TEAM: {Meter.OUTPUT_TOKENS: MeterPrice(Fraction(1))}}
        listed = PriceVersion(currency="EUR", valid_from=datetime(2026, 1, 1, tzinfo=UTC), prices=prices)
        await self.prices.publish_prices(listed)
        record = UsageRecord(
            id=uuid7(self.clock),
            tenant_id=tenant_id,
            source="test",
            event_id="1",
            operation=OperationType.CHAT,
            tier=TenantTier.TEAM,
            outcome="success",
            occurred_at=at,
            quantities=UsageQuantities(output_tokens=5),
            resources=ResourceUsage(),
        )
        await self.books.usage.insert(record)

    async def sign(
        self,
        tenant_id: UUID,
        *,
        starts_at: datetime,
        ends_at: datetime | None = None,
        currency: str = "EUR",
        during: Interruption | None = None,
    ) -> Contract | ConflictError:
        """Conclude a contract, or return why not; `during` comes in between."""
        plan_id = await self.desk.plans.publish(plan_from_dict(a_plan(currency)), actor="test")
        plans = self.desk.plans
        if during is not None:
            invoices: Any = InterruptedInvoices(self.books, during)
            money = replace(self.books.money, invoices=invoices)
            plans = PlanService(store=self.books.plans, prices=self.prices, books=money)
        try:
            return await plans.conclude(
                tenant_id,
                plan=plan_id,
                starts_at=starts_at,
                ends_at=ends_at,
                payment_days=14,
                tax=UNTAXED,
                actor="test",
            )
        except ConflictError as error:
            return error

    async def draft(self, tenant_id: UUID) -> Invoice:
        (draft,) = await self.desk.invoices.generate(tenant_id, period=SEPTEMBER, actor="test")
        return draft


@pytest.fixture
def shop(books: Books) -> Shop:
    """A shop at the end of September."""
    shop = Shop(books)
    while shop.clock.now() < SEPTEMBER.end:
        shop.clock.advance(seconds=86_400)
    return shop


async def test_of_contracts_in_many_currencies_within_a_month_one_is_concluded_and_billed(
    shop: Shop,
) -> None:
    for _ in ROUNDS:
        tenant_id = await shop.customer()
        answers = await asyncio.gather(
            *(
                shop.sign(tenant_id, starts_at=NOON_17 + timedelta(hours=hour), currency=currency)
                for hour, currency in enumerate(CURRENCIES)
            )
        )
        concluded = [each for each in answers if not isinstance(each, ConflictError)]
        assert concluded == list(await shop.desk.plans.contracts(tenant_id))
        (contract,) = concluded
        draft = await shop.draft(tenant_id)
        invoice = await shop.desk.invoices.finalize(draft.id, actor="test")
        assert (invoice.contract_id, invoice.total_minor) == (contract.id, 700)


async def test_contracts_and_drafts_at_the_same_time_agree(shop: Shop) -> None:
    for _ in ROUNDS:
        tenant_id = await shop.customer()
        first = await shop.sign(tenant_id, starts_at=SEPTEMBER.start)
        second, draft = await asyncio.gather(shop.sign(tenant_id, starts_at=NOON_17), shop.draft(tenant_id))
        last = first if isinstance(second, ConflictError) else second
        assert draft.contract_id == getattr(last, "id", None)


async def test_a_draft_waits_for_the_contract_that_is_just_concluded(shop: Shop) -> None:
    tenant_id = await shop.customer()
    await shop.sign(tenant_id, starts_at=SEPTEMBER.start)
    drafting = Interruption(lambda: shop.draft(tenant_id))
    contract = await shop.sign(tenant_id, starts_at=NOON_17, during=drafting)
    draft = await drafting.task
    assert not isinstance(contract, ConflictError)
    assert draft.contract_id == contract.id
    body = await shop.desk.invoices.body(draft)
    assert [(line["plan_id"], line["starts_at"][8:10]) for line in body["lines"]] == [
        (contract.plan_id, "01"),
        (contract.plan_id, "17"),
    ]


@pytest.mark.parametrize(("is_used", "place"), [*itertools.product([True, False], [1, 3])])
async def test_a_contract_that_is_dated_back_comes_in_before_the_drafts_or_is_refused(
    shop: Shop, *, is_used: bool, place: int
) -> None:
    """The calendar finalizes what it drafts: fees of a month that it has passed by would be lost.

    Each month takes a unit of work, and one within it.
    """
    tenant_id = await shop.customer()
    august = CalendarMonth(2026, 8)
    if is_used:
        await shop.use(tenant_id, at=august.start)
    else:  # July is billed, and there is nothing to draft of August
        ended = await shop.sign(tenant_id, starts_at=datetime(2026, 7, 1, tzinfo=UTC), ends_at=august.start)
        assert not isinstance(ended, ConflictError)
        (draft,) = await shop.desk.invoices.generate(tenant_id, period=CalendarMonth(2026, 7), actor="test")
        await shop.desk.invoices.finalize(draft.id, actor="test")
        await shop.use(tenant_id, at=SEPTEMBER.start)
    starts_at = datetime(2026, 7, 1, tzinfo=UTC) if is_used else august.start
    signing = Interruption(lambda: shop.sign(tenant_id, starts_at=starts_at))
    unit_of_work = interrupted_work(shop.books, signing, place=place)
    desk = shop.desk_over(replace(shop.books.money, unit_of_work=unit_of_work))
    await desk.invoices.generate_until(tenant_id, last=SEPTEMBER, actor="test")
    contract = await signing.task
    drafts = await shop.desk.invoices.list(tenant_id=tenant_id, statuses=(InvoiceStatus.DRAFT,))
    drafted = {draft.period: draft.contract_id for draft in drafts}
    if isinstance(contract, ConflictError):
        assert (is_used, place) == (True, 3)
        assert min(drafted) == august
    else:
        month = CalendarMonth.of(starts_at)
        assert drafted == {
            each: contract.id for each in (CalendarMonth(2026, 7), august, SEPTEMBER) if each >= month
        }


async def test_a_draft_that_is_finalized_meanwhile_refuses_a_contract_all_the_same(shop: Shop) -> None:
    tenant_id = await shop.customer()
    first = await shop.sign(tenant_id, starts_at=SEPTEMBER.start)
    draft = await shop.draft(tenant_id)
    finalizing = Interruption(lambda: shop.desk.invoices.finalize(draft.id, actor="test"))
    assert isinstance(await shop.sign(tenant_id, starts_at=NOON_17, during=finalizing), ConflictError)
    assert (await finalizing.task).contract_id == getattr(first, "id", None)
    assert len(await shop.desk.plans.contracts(tenant_id)) == 1


@pytest.mark.service
async def test_what_refers_to_a_tenant_comes_in_while_the_tenant_is_held(
    scratch_postgresql: str, books_in: Callable[[Database], Books]
) -> None:
    database = Database(scratch_postgresql)
    books = books_in(database)
    tenant_id = await Shop(books).customer()
    other_tenant_id = await Shop(books).customer()

    async def refer() -> None:
        now = datetime(2026, 11, 1, tzinfo=UTC)
        key = ApiKey("key", tenant_id, "laptop", frozenset(Scope), now)
        await books.tenants.add_key(key, secret_hash=b"0" * 32)

    async def hold(held: UUID) -> None:
        async with books.unit_of_work():
            await books.plans.hold(held)

    others = Interruption(lambda: asyncio.gather(refer(), hold(other_tenant_id)))
    waiting = Interruption(lambda: hold(tenant_id))
    async with books.unit_of_work():
        await books.plans.hold(tenant_id)
        await others.happen()
        await waiting.happen()
        assert (others.task.done(), waiting.task.done()) == (True, False)
    await asyncio.gather(others.task, waiting.task)
    await database.close()
