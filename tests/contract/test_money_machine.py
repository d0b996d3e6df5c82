"""Any life of invoices does the same in memory and in SQL, and after every step the books are right.

What is right: every journal group balances; receivable is what is open; numbers have no gap; documents never
change; a use is billed once; every change has one audit entry. And in the end, once everything that was used
is billed, the lines of a month sum to what one invoice over the whole month would have said, however late.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium_platform.adapters.memory.audit_outbox import MemoryAuditOutbox
from tritium_platform.adapters.memory.billing_store import MemoryPriceStore
from tritium_platform.adapters.memory.books_reader import MemoryBooksReader, MemoryRunStore
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.invoice_store import MemoryBilledUsageStore, MemoryInvoiceStore
from tritium_platform.adapters.memory.metering_store import MemoryUsageStore
from tritium_platform.adapters.memory.money_stores import (
    MemoryCreditStore,
    MemoryJournalStore,
    MemoryOperationStore,
    MemoryPlanStore,
)
from tritium_platform.adapters.memory.payment_store import MemoryNoticeStore, MemoryPaymentStore
from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.books_reader import SqlBooksReader
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.money import open_sql_desk
from tritium_platform.adapters.sql.reconciliation_store import SqlRunStore
from tritium_platform.audit.note import NoteSigner, NoteVerifier
from tritium_platform.billing.books import BillingBooks
from tritium_platform.billing.calendar import CalendarRun
from tritium_platform.billing.desk import BillingDesk, open_desk, open_payments
from tritium_platform.billing.document import note_text
from tritium_platform.billing.drafting import PartFacts, rate_parts
from tritium_platform.billing.invoice import OPEN, InvoiceKind, InvoiceStatus
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.billing.rating.plan_json import plan_from_dict
from tritium_platform.billing.rating.tax import TaxStatus
from tritium_platform.billing.reconciliation.provider import ManualProvider
from tritium_platform.billing.reconciliation.service import ReconciliationService
from tritium_platform.errors import BitNetServiceError
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import Tenant, TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from tritium_platform.billing.rating.plan import Line
    from tritium_platform.billing.reconciliation.model import Difference
    from tritium_platform.metering.service import UsageStore

START = datetime(2026, 9, 10, tzinfo=UTC)
FIRST = CalendarMonth(2026, 9)
PLAN = {
    "name": "everything at once",
    "currency": "EUR",
    "charges": [
        {
            "name": "output",
            "meter": "output_tokens",
            "included": 5,
            "price": {
                "kind": "volume",
                "steps": [
                    {"up_to": 40, "unit_price": "7/3", "flat_fee": "11"},
                    {"up_to": None, "unit_price": "3/2"},
                ],
            },
        },
        {
            "name": "input",
            "meter": "input_tokens",
            "tax_category": "reduced",
            "price": {
                "kind": "matrix",
                "dimensions": ["model", "tier"],
                "cells": [
                    {"values": ["large", "*"], "price": {"kind": "per_unit", "unit_price": "5/4"}},
                    {"values": ["*", "*"], "price": {"kind": "package", "size": 7, "amount": "9"}},
                ],
            },
        },
        {"name": "seat", "price": {"kind": "flat", "amount": "500"}, "is_prorated": True},
    ],
    "discounts": [{"name": "friends", "share": "1/10", "charges": ["output"]}],
    "commitment": 700,
    "taxes": [
        {"jurisdiction": "DE", "category": name, "valid_from": "2026-01-01T00:00:00+00:00", "rate": rate}
        for name, rate in (("standard", "0.19"), ("reduced", "0.07"))
    ],
}
OTHER = {**PLAN, "name": "dearer, without a minimum", "charges": [*PLAN["charges"][:2]], "commitment": 0}
OTHER["charges"] += [{"name": "seat", "price": {"kind": "flat", "amount": "901"}, "is_prorated": True}]
small = st.integers(0, 60)
VERBS = "use use use late pass pass bill bill finalize finalize pay pay void write_off credit grant calendar"
VERBS += " change"
verbs = st.sampled_from(VERBS.split())
scripts = st.lists(st.tuples(verbs, small, small), min_size=8, max_size=30)


class Tenants:
    def __init__(self, tenant_id: UUID) -> None:
        self._tenant_id = tenant_id

    async def list_tenants(self) -> Sequence[Tenant]:
        return [Tenant(self._tenant_id, "Acme", TenantTier.TEAM, START)]


def changes_of(before: InvoiceStatus | None, after: InvoiceStatus) -> list[str]:
    """Return which changes the calendar made of an invoice."""
    changes = ["generate"] if before is None else []
    if before in (None, InvoiceStatus.DRAFT) and after is not InvoiceStatus.DRAFT:
        changes.append("finalize")
    if after is InvoiceStatus.OVERDUE and before is not InvoiceStatus.OVERDUE:
        changes.append("overdue")
    return changes


def signer() -> NoteSigner:
    return NoteSigner("tritium.example/audit", private_key=Ed25519PrivateKey.from_private_bytes(b"7" * 32))


class Silence:
    async def differs(self, difference: Difference, *, run_id: UUID) -> None:
        """Say nothing: the machine looks at what was found."""


class Player:
    """Plays steps on one set of books, and notes every answer without the ids in it."""

    def __init__(self, *, database: Database | None, tenant_id: UUID) -> None:
        self.clock = ManualClock(START)
        self.tenant_id = tenant_id
        self.is_in_sql = database is not None
        self.usage: UsageStore
        common: Any = {
            "tenants": Tenants(tenant_id),
            "signer": signer(),
            "grace_days": 3,
        }
        if database is None:
            memory = MemoryDatabase()
            self.usage = MemoryUsageStore(memory)
            self.prices = BillingService(prices=MemoryPriceStore(memory), clock=self.clock)
            books = BillingBooks(
                unit_of_work=memory.unit_of_work,
                invoices=MemoryInvoiceStore(memory),
                usage=MemoryBilledUsageStore(memory),
                journal=MemoryJournalStore(memory),
                credits=MemoryCreditStore(memory),
                operations=MemoryOperationStore(memory),
                payments=MemoryPaymentStore(memory),
                outbox=MemoryAuditOutbox(memory),
                clock=self.clock,
            )
            self.desk: BillingDesk = open_desk(
                books,
                plan_store=MemoryPlanStore(memory),
                prices=self.prices,
                payments=open_payments(books, events=MemoryNoticeStore(memory)),
                **common,
            )
        else:
            self.usage = SqlUsageStore(database)
            self.prices = BillingService(prices=SqlPriceStore(database), clock=self.clock)
            self.desk = open_sql_desk(database, prices=self.prices, clock=self.clock, **common)
        reader: Any = MemoryBooksReader(memory) if database is None else SqlBooksReader(database)
        self.reconciliation = ReconciliationService(
            reader=reader,
            runs=MemoryRunStore(memory) if database is None else SqlRunStore(database),
            books=self.desk.books,
            plans=self.desk.plans,
            provider=ManualProvider(reader),
            alarm=Silence(),
        )
        self.answers: list[object] = []
        self.events = 0
        self.entries = 0
        self.documents: dict[UUID, bytes] = {}

    async def sign(self) -> None:
        await self.prices.publish_prices(default_price_version())
        await self._conclude(PLAN, starts_at=START)
        self.entries = await self._count_entries()

    async def _conclude(self, plan: dict[str, Any], *, starts_at: datetime) -> None:
        plan_id = await self.desk.plans.publish(plan_from_dict(plan), actor="test")
        await self.desk.plans.conclude(
            self.tenant_id,
            plan=plan_id,
            starts_at=starts_at,
            ends_at=None,
            payment_days=20,
            tax=TaxStatus("DE"),
            actor="test",
        )

    async def play(self, verb: str, first: int, second: int) -> None:
        self.clock.advance(seconds=1)
        try:
            changes, answer = await getattr(self, verb)(first, second)
        except BitNetServiceError as error:
            changes, answer = 0, error.code
        self.answers.append((verb, answer))
        self.entries += changes
        assert await self._count_entries() == self.entries, verb
        await self.check()

    async def use(self, quantity: int, kind: int) -> tuple[int, object]:
        return await self._use(quantity, kind, at=self.clock.now())

    async def late(self, quantity: int, kind: int) -> tuple[int, object]:
        at = max(START, self.clock.now() - timedelta(days=3 * kind))
        return await self._use(quantity, kind, at=at)

    async def _use(self, quantity: int, kind: int, *, at: datetime) -> tuple[int, object]:
        self.events += 1
        record = UsageRecord(
            id=uuid7(self.clock),
            tenant_id=self.tenant_id,
            source="gateway",
            event_id=f"event {self.events}",
            operation=OperationType.CHAT,
            tier=list(TenantTier)[kind % 3],
            outcome="success",
            occurred_at=at,
            quantities=UsageQuantities(output_tokens=quantity, input_tokens=kind),
            resources=ResourceUsage(compute_time_ms=1),
            model=["small", "large"][kind % 2],
        )
        await self.usage.insert(record)
        return 0, None

    async def change(self, hours: int, kind: int) -> tuple[int, object]:
        starts_at = self.clock.now() - timedelta(hours=hours)
        await self._conclude([PLAN, OTHER][kind % 2], starts_at=starts_at)
        return 1, kind % 2

    async def pass_(self, days: int, _: int) -> tuple[int, object]:
        self.clock.advance(seconds=days * 86_400)
        return 0, None

    async def bill(self, back: int, _: int) -> tuple[int, object]:
        month = CalendarMonth.of(self.clock.now() - timedelta(days=31 * (back % 3)))
        made = await self.desk.invoices.generate(self.tenant_id, period=max(month, FIRST), actor="test")
        return len(made), [str(each.period) for each in made]

    async def finalize(self, number: int, _: int) -> tuple[int, object]:
        before = await self._pick(number, statuses=[InvoiceStatus.DRAFT])
        after = await self.desk.invoices.finalize(before.id, actor="test")
        return 1, after.status

    async def pay(self, number: int, part: int) -> tuple[int, object]:
        invoice = await self._pick(number, statuses=sorted(OPEN))
        amount = max(1, invoice.open_minor * min(part, 50) // 50)
        again = {"amount_minor": amount, "reference": "wire", "key": f"{self.tenant_id} {uuid7()}"}
        paid = await self.desk.settlement.record_payment(invoice.id, actor="test", **again)
        same = await self.desk.settlement.record_payment(invoice.id, actor="test", **again)
        assert same == paid
        return 1, (paid.status, paid.paid_minor)

    async def void(self, number: int, _: int) -> tuple[int, object]:
        before = await self._pick(number, statuses=[])
        after = await self.desk.settlement.void(before.id, actor="test")
        return int(before.status is not InvoiceStatus.VOID), after.status

    async def write_off(self, number: int, _: int) -> tuple[int, object]:
        before = await self._pick(number, statuses=[])
        after = await self.desk.settlement.write_off(before.id, actor="test")
        return int(before.status is not InvoiceStatus.UNCOLLECTIBLE), after.status

    async def credit(self, number: int, amount: int) -> tuple[int, object]:
        invoice = await self._pick(number, statuses=[])
        wish: Any = {"amounts": {1 + number % 3: amount + 1}, "reason": "sorry"}
        note = await self.desk.credit_notes.credit(invoice.id, key=None, actor="test", **wish)
        return 1, note.total_minor

    async def grant(self, amount: int, days: int) -> tuple[int, object]:
        grant = await self.desk.grants.grant(
            self.tenant_id,
            currency="EUR",
            amount_minor=amount * 10,
            reason="prepaid",
            expires_at=self.clock.now() + timedelta(days=days) if days % 2 else None,
            key=None,
            actor="test",
        )
        return 1, grant.amount_minor

    async def calendar(self, _: int, __: int) -> tuple[int, object]:
        heads = {each.id: each.status for each in await self.invoices()}
        expired = await self._count_expiries()
        await self.desk.calendar.run()
        changes = Counter(
            change for each in await self.invoices() for change in changes_of(heads.get(each.id), each.status)
        )
        changes["expire"] = await self._count_expiries() - expired
        second = await self.desk.calendar.run()
        assert second == CalendarRun(generated=0, finalized=0, overdue=0, expired=0, failed=0)
        return sum(changes.values()), sorted(changes.items())

    async def _count_expiries(self) -> int:
        groups = await self.desk.books.journal.list(limit=100_000)
        mine = [each for each in groups if each.tenant_id == self.tenant_id]
        return sum(each.operation_id.startswith("expire:") for each in mine)

    async def _pick(self, number: int, *, statuses: Sequence[InvoiceStatus]) -> Any:
        found = [each for each in await self.invoices() if not statuses or each.status in statuses]
        if not found:
            return await self.desk.invoices.get(UUID(int=0))
        return found[number % len(found)]

    async def _count_entries(self) -> int:
        pending = await self.desk.books.outbox.pending(limit=100_000)  # type: ignore[attr-defined]
        mine = [each for each in pending if each.tenant_id == self.tenant_id]
        assert len({each.id for each in mine}) == len(mine)
        return len(mine)

    async def invoices(self) -> Sequence[Any]:
        """Return the tenant's invoices; those of one instant have ids in any order, so not by these."""
        found = await self.desk.invoices.list(tenant_id=self.tenant_id, limit=100_000)
        return sorted(found, key=lambda each: (each.created_at, each.period, each.kind))

    async def check(self) -> None:
        groups = await self.desk.books.journal.list(limit=100_000)
        sums: Counter[str] = Counter()
        for group in groups:
            assert sum(entry.amount_minor for entry in group.entries) == 0
            if group.tenant_id == self.tenant_id:
                for entry in group.entries:
                    sums[entry.account] += entry.amount_minor
        invoices = await self.invoices()
        assert sums["receivable"] == sum(each.open_minor for each in invoices)
        grants = await self.desk.grants.list(self.tenant_id)
        assert -sums["customer_credit"] == sum(grant.remaining_minor for grant in grants)
        paid = sum(each.paid_minor for each in invoices)
        assert sums["cash_clearing"] == paid + sum(
            grant.amount_minor for grant in grants if grant.reason == "prepaid"
        )
        for each in invoices:
            await self.check_document(each)
        self.answers.append([(each.status, each.open_minor, each.total_minor) for each in invoices])
        self.answers.append(sorted(sums.items()))
        if not self.is_in_sql:
            await self.reconcile()

    async def reconcile(self) -> None:
        run = await self.reconciliation.run()
        # Other tenants of a shared database live by other clocks.
        assert [each for each in run.differences if each.tenant_id == self.tenant_id] == []

    async def check_document(self, invoice: Any) -> None:
        document = await self.desk.books.invoices.document(invoice.id)
        if invoice.status is InvoiceStatus.DRAFT:
            assert document is None
            return
        if document is None:
            assert invoice.status is InvoiceStatus.VOID
            assert invoice.finalized_at is None
            return
        assert self.documents.setdefault(invoice.id, document.body) == document.body
        assert hashlib.sha256(document.body).digest() == document.sha256
        text = note_text("tritium.example/audit", number=document.number, sha256=document.sha256)
        assert NoteVerifier.from_vkey(document.verifier_key).open_note(document.note) == text
        body = json.loads(document.body)
        lines = body["lines"]
        for name in ("net_minor", "tax_minor"):
            assert body[name] == sum(line[name] for line in lines)
        assert body["total_minor"] == invoice.total_minor == body["net_minor"] + body["tax_minor"]
        assert body["due_minor"] == max(0, invoice.total_minor) - invoice.drawn_minor or (
            invoice.kind is InvoiceKind.CREDIT_NOTE
        )

    async def finish(self) -> None:
        """Bill everything that was used, and compare each month with one invoice over all of it."""
        self.clock.advance(seconds=70 * 86_400)
        await self.desk.calendar.run()
        self.clock.advance(seconds=70 * 86_400)
        last = CalendarMonth.of(self.clock.now() - timedelta(days=31))
        await self.desk.invoices.generate(self.tenant_id, period=last, actor="test")
        drafts = await self.desk.invoices.list(statuses=[InvoiceStatus.DRAFT], limit=100)
        for draft in sorted(drafts, key=lambda each: each.period):
            if draft.tenant_id == self.tenant_id:
                await self.desk.invoices.finalize(draft.id, actor="test")
        await self.check()
        await self.reconcile()
        assert not await self.desk.books.usage.unbilled_months(self.tenant_id, before=last.end)
        month = FIRST
        while month <= last:
            await self._check_month(month)
            month = month.next()
        await self._check_numbers()

    async def _check_month(self, month: CalendarMonth) -> None:
        filed = await self.desk.books.invoices.charged(self.tenant_id, month)
        if not filed:
            return
        parts = await self._rated(month)
        assert sum(line.net_minor for line in filed) == sum(line.net for line in parts), str(month)
        self.answers.append((str(month), sum(line.net_minor for line in filed)))

    async def _rated(self, month: CalendarMonth) -> list[Line]:
        """Return what one invoice over the whole month would have said."""
        terms = await self.desk.plans.terms_of(self.tenant_id, month=month)
        parts = [
            PartFacts(
                terms=part,
                usage=await self.desk.books.usage.usage(
                    self.tenant_id, interval=part.interval or month.interval, is_only_billed=False
                ),
            )
            for part in terms.parts
        ]
        return [line for lines in rate_parts(parts) for line in lines]

    async def _check_numbers(self) -> None:
        numbers: dict[str, list[int]] = {}
        for each in await self.desk.invoices.list(limit=100_000):
            document = await self.desk.books.invoices.document(each.id)
            if document is not None:
                numbers.setdefault(document.series, []).append(document.sequence)
        for found in numbers.values():
            assert sorted(found) == list(range(1, len(found) + 1))


setattr(Player, "pass", Player.pass_)


async def play(script: list[tuple[str, int, int]], player: Player) -> list[object]:
    await player.sign()
    for step in script:
        await player.play(*step)
    await player.reconcile()
    await player.finish()
    return player.answers


async def play_on_both(url: str, script: list[tuple[str, int, int]]) -> None:
    database = Database(url)
    tenant_id = uuid7()  # a tenant of its own: the database is shared by all scripts
    try:
        answers: Awaitable[Any] = play(script, Player(database=database, tenant_id=tenant_id))
        in_sql = await answers
    finally:
        await database.close()
    assert in_sql == await play(script, Player(database=None, tenant_id=tenant_id))


@given(scripts)
@settings(max_examples=80)
def test_the_books_in_memory_are_right_after_every_step(script: list[tuple[str, int, int]]) -> None:
    asyncio.run(play(script, Player(database=None, tenant_id=uuid7())))


@given(scripts)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_memory_and_sql_agree_on_every_life(sql_url: str, script: list[tuple[str, int, int]]) -> None:
    asyncio.run(play_on_both(sql_url, script))
