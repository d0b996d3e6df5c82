"""Reconciliation finds and names what was changed behind the services' back, and is quiet otherwise."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium_platform.adapters.books_alarm import SecurityAlarm
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.books_reader import SqlBooksReader
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.money import open_sql_desk
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.reconciliation_store import SqlRunStore
from tritium_platform.adapters.sql.security_store import SqlSecurityEventStore
from tritium_platform.audit.note import NoteSigner
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.billing.rating.plan_json import plan_from_dict
from tritium_platform.billing.rating.tax import TaxStatus
from tritium_platform.billing.reconciliation.model import Check
from tritium_platform.billing.reconciliation.provider import ManualProvider
from tritium_platform.billing.reconciliation.service import ReconciliationService
from tritium_platform.compliance.canary import Canary, known_answer
from tritium_platform.errors import PlatformError
from tritium_platform.metering.event import ReportedEvent, Sender, UsageEvent, accept_events
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.metering.service import MeteringService
from tritium_platform.quotas.model import QuotaMeter, Reservation
from tritium_platform.quotas.service import QuotaService
from tritium_platform.security.model import SecurityEventType, ThreatLevel
from tritium_platform.security.service import SecurityService
from tritium_platform.tenancy.model import Tenant, TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tritium_platform.billing.invoice import Invoice, Payment
    from tritium_platform.billing.reconciliation.model import ReconciliationRun

SEPTEMBER = CalendarMonth(2026, 9)
TENANT = UUID(int=77)
PLAN = {
    "name": "volume",
    "currency": "EUR",
    "charges": [
        {"name": "seat", "price": {"kind": "flat", "amount": "100"}},
        {
            "name": "output",
            "meter": "output_tokens",
            "included": 5,
            "price": {"kind": "per_unit", "unit_price": "3"},
        },
    ],
    "taxes": [
        {
            "jurisdiction": "DE",
            "category": "standard",
            "valid_from": "2026-01-01T00:00:00+00:00",
            "rate": "0.19",
        }
    ],
}
NOTHING = "payment:00000000-0000-0000-0000-000000000001"
KEY: Any = {"key": None, "actor": "test"}


class Tenants:
    async def list_tenants(self) -> Sequence[Tenant]:
        return [Tenant(TENANT, "Acme", TenantTier.TEAM, datetime(2026, 9, 1, tzinfo=UTC))]


@dataclass
class House:
    """The services of money over one database, after a life with everything in it."""

    database: Database
    clock: ManualClock
    reconciliation: ReconciliationService
    reader: SqlBooksReader
    desk: Any
    usage: SqlUsageStore
    events: SqlSecurityEventStore
    invoices: list[Invoice]

    async def run(self, **options: Any) -> ReconciliationRun:
        return await self.reconciliation.run(**options)


def use_of(clock: ManualClock, tokens: int, *, event: str, at: datetime) -> UsageRecord:
    return UsageRecord(
        id=uuid7(clock),
        tenant_id=TENANT,
        source="gateway",
        event_id=event,
        operation=OperationType.CHAT,
        tier=TenantTier.TEAM,
        outcome="success",
        occurred_at=at,
        quantities=UsageQuantities(output_tokens=tokens),
        resources=ResourceUsage(),
        model="small",
    )


async def live(house: House) -> None:
    """Use, bill, pay a part, correct, adjust late use, draw prepaid credit."""
    clock, desk = house.clock, house.desk
    plan = await desk.plans.publish(plan_from_dict(PLAN), actor="test")
    await desk.plans.conclude(
        TENANT,
        plan=plan,
        starts_at=SEPTEMBER.start,
        ends_at=None,
        payment_days=14,
        tax=TaxStatus("DE"),
        actor="test",
    )
    store = SqlReservationStore(house.database)
    for number in range(4):  # the third is the late use's, the fourth is held
        reservation = Reservation(
            id=uuid7(clock),
            tenant_id=TENANT,
            meter=QuotaMeter.REQUESTS,
            period=str(SEPTEMBER),
            amount=1,
            created_at=clock.now(),
            expires_at=clock.now() + timedelta(minutes=15),
        )
        await store.hold(reservation, limit=100)
        if number < 3:
            await store.settle(reservation.id, tenant_id=TENANT, amount=1, at=clock.now())
        if number < 2:
            await house.usage.insert(use_of(clock, 100 + number, event=f"event-{number}", at=clock.now()))
        clock.advance(seconds=1)
    clock.advance(seconds=40 * 86_400)
    (draft,) = await desk.invoices.generate(TENANT, period=SEPTEMBER, actor="test")
    first = await desk.invoices.finalize(draft.id, actor="test")
    asked = await desk.payments.service.process_payment(first.id, **KEY)
    await desk.payments.service.cancel(asked.id)  # it was paid in another way
    await desk.settlement.record_payment(first.id, amount_minor=200, reference="wire 1", **KEY)
    await desk.credit_notes.credit(first.id, amounts={2: 50}, reason="sorry", **KEY)
    await desk.grants.grant(TENANT, currency="EUR", amount_minor=70, reason="prepaid", **KEY)
    await house.usage.insert(use_of(clock, 9, event="late", at=SEPTEMBER.start))
    clock.advance(seconds=40 * 86_400)
    (second,) = await desk.invoices.generate(TENANT, period=SEPTEMBER.next(), actor="test")
    second = await desk.invoices.finalize(second.id, actor="test")
    house.invoices = [first, second]


@pytest.fixture
async def house(sql_url: str) -> AsyncIterator[House]:
    database, clock = Database(sql_url), ManualClock(SEPTEMBER.start + timedelta(days=3))
    prices = BillingService(prices=SqlPriceStore(database), clock=clock)
    await prices.publish_prices(default_price_version())
    signer = NoteSigner("a.example", private_key=Ed25519PrivateKey.from_private_bytes(b"7" * 32))
    desk = open_sql_desk(
        database, prices=prices, tenants=Tenants(), signer=signer, clock=clock, grace_days=None
    )
    events = SqlSecurityEventStore(database)
    containment: Any = Containment()
    security = SecurityService(
        store=events, trail=SqlAuditOutbox(database), containment=containment, clock=clock
    )
    reader = SqlBooksReader(database)
    reconciliation = ReconciliationService(
        reader=reader,
        runs=SqlRunStore(database),
        books=desk.books,
        plans=desk.plans,
        provider=ManualProvider(reader),
        alarm=SecurityAlarm(security, clock=clock),
    )
    made = House(database, clock, reconciliation, reader, desk, SqlUsageStore(database), events, [])
    await live(made)
    yield made
    await database.close()


class Containment:
    async def notify_operator(self, level: ThreatLevel, *, text: str) -> None:
        """The log of the operator is none of this test's."""


async def test_money_through_an_attempt_and_its_refund_are_no_difference(
    house: House, sabotage: Callable[[str], None]
) -> None:
    payments, second = house.desk.payments, house.invoices[1]
    asked = await payments.service.process_payment(second.id, **KEY)
    await payments.service.receive(asked.id, amount_minor=5, reference="wire 2", **KEY)
    assert (await house.run()).differences == ()
    await payments.refunds.refund(asked.id, reason="sorry", amount_minor=2, **KEY)
    assert (await house.run()).differences == ()
    sabotage("UPDATE invoices SET paid_minor = paid_minor + 1 WHERE paid_minor = 3")
    assert {each.check for each in (await house.run()).differences} >= {Check.BALANCE}


async def test_credit_that_is_paid_out_is_no_difference(
    house: House, sabotage: Callable[[str], None]
) -> None:
    payments, second = house.desk.payments, house.invoices[1]
    asked = await payments.service.process_payment(second.id, **KEY)
    more = asked.amount_minor + 300
    await payments.service.receive(asked.id, amount_minor=more, reference="wire 2", **KEY)
    await payments.refunds.refund(asked.id, reason="too much", amount_minor=120, **KEY)
    note = await house.desk.credit_notes.credit(second.id, amounts={1: 50}, reason="sorry", **KEY)
    await payments.refunds.refund(asked.id, reason="noted", amount_minor=7, credit_note_id=note.id, **KEY)
    assert (await house.run()).differences == ()
    sabotage("UPDATE credit_grants SET remaining_minor = remaining_minor - 1 WHERE remaining_minor = 180")
    assert {each.check for each in (await house.run()).differences} == {Check.GRANT, Check.BALANCE}


async def test_right_books_have_no_difference_and_that_is_kept(house: House) -> None:
    run = await house.run()
    assert run.differences == ()
    assert (await house.reconciliation.recent(limit=5))[0] == run
    assert run.counted == {
        "balances": 1,
        "counters": 1,
        "grants": 1,
        "invoices": 3,
        "journal_groups": 5,
        "months": 2,
        "payments": 1,
        "tenants_with_requests": 1,
        "uses": 3,
    }
    assert await house.events.recent(limit=5) == []


async def test_the_size_of_a_page_changes_nothing(house: House, sabotage: Callable[[str], None]) -> None:
    sabotage("UPDATE invoice_lines SET net_minor = net_minor + 1 WHERE quantity = '201'")
    whole, small = await house.run(), await house.run(page=1)
    assert (whole.counted, whole.differences) == (small.counted, small.differences)
    assert whole.num_differences


@pytest.mark.parametrize("quantity", [7, 0])
@pytest.mark.parametrize(
    "change", ["output_tokens = 8", "input_tokens = 1, output_tokens = 7", "model = 'dear'", "event_id = 'f'"]
)
async def test_a_reported_event_that_no_invoice_charged_is_held_to_what_its_sender_said(
    house: House, sabotage: Callable[[str], None], quantity: int, change: str
) -> None:
    reported = ReportedEvent(
        source="crm",
        id="e",
        meter="output_tokens",
        quantity=quantity,
        event_time=house.clock.now(),
        dimensions={"model": "cheap", "device": "cpu"},
    )
    sender = Sender(tiers={TENANT: TenantTier.TEAM}, tenant_id=TENANT)
    (event,) = accept_events([reported], sender=sender, now=house.clock.now())
    assert isinstance(event, UsageEvent)
    await house.usage.insert(event.record(uuid7(house.clock)))
    assert (await house.run()).differences == ()
    sabotage(f"UPDATE usage_records SET {change} WHERE event_id = 'e'")
    (difference,) = (await house.run()).differences
    assert difference.check is Check.EVENT


# What is changed, which checks find it, and what they name.
SABOTAGE: dict[str, tuple[str, set[Check], str]] = {
    "an event's quantity": (
        "UPDATE usage_records SET output_tokens = 1000 WHERE event_id = 'event-1'",
        {Check.EVENT, Check.LINE_EVENTS, Check.MONTH},
        "event event-1",
    ),
    "an event and its digest": (
        "UPDATE usage_records SET output_tokens = 1000, body_sha256 = {digest} WHERE event_id = 'event-1'",
        {Check.LINE_EVENTS, Check.MONTH},
        "line 2",
    ),
    "an event is gone": (
        "DELETE FROM usage_records WHERE event_id = 'late'",
        {Check.LINE_EVENTS, Check.MONTH},
        "line 2",
    ),
    "an event moves to another invoice": (
        "DELETE FROM invoice_events WHERE usage_id = {usage}",
        {Check.LINE_EVENTS, Check.MONTH},
        "line 2",
    ),
    "an event nobody admitted": (
        "UPDATE usage_records SET event_id = 'late', source = 'other' WHERE event_id = 'late'",
        {Check.EVENT, Check.LINE_EVENTS},
        "source other",
    ),
    "a line's amount": (
        "UPDATE invoice_lines SET net_minor = net_minor - 1 WHERE quantity = '201'",
        {Check.LINE, Check.MONTH},
        "line 2",
    ),
    "a line's tax": (
        "UPDATE invoice_lines SET tax_minor = tax_minor - 1 WHERE quantity = '201'",
        {Check.LINE},
        "line 2",
    ),
    "a line's quantity": (
        "UPDATE invoice_lines SET quantity = '202' WHERE quantity = '201'",
        {Check.LINE, Check.MONTH},
        "line 2",
    ),
    "a line is gone": (
        "DELETE FROM invoice_lines WHERE quantity = '201'",
        {Check.LINE, Check.MONTH},
        "line 2",
    ),
    "a document": (
        "UPDATE invoice_documents SET body = {body} WHERE number = 'INV-00000001'",
        {Check.DOCUMENT},
        "INV-00000001",
    ),
    "a document with its digest": (
        "UPDATE invoice_documents SET body = {body}, sha256 = {body_digest} WHERE number = 'INV-00000001'",
        {Check.DOCUMENT},
        "INV-00000001",
    ),
    "a document is gone": (
        "DELETE FROM invoice_documents WHERE number = 'INV-00000001'",
        {Check.DOCUMENT},
        "INV-00000001",
    ),
    "a total": (
        "UPDATE invoices SET total_minor = total_minor + 5 WHERE number = 'INV-00000001'",
        {Check.TOTAL, Check.BALANCE},
        "INV-00000001 total",
    ),
    "what is paid": (
        "UPDATE invoices SET paid_minor = paid_minor + 5 WHERE number = 'INV-00000001'",
        {Check.PAYMENTS, Check.BALANCE},
        "INV-00000001",
    ),
    "what is credited": (
        "UPDATE invoices SET credited_minor = credited_minor + 5 WHERE number = 'INV-00000001'",
        {Check.CREDITED, Check.BALANCE},
        "INV-00000001",
    ),
    "a status": (
        "UPDATE invoices SET status = 'paid' WHERE number = 'INV-00000001'",
        {Check.PAYMENTS, Check.BALANCE},
        "INV-00000001",
    ),
    "a void that never was": (
        "UPDATE invoices SET status = 'void' WHERE number = 'INV-00000002'",
        {Check.MOVEMENT, Check.BALANCE, Check.GRANT},
        "void:",
    ),
    "a journal entry": (
        "UPDATE journal_entries SET amount_minor = amount_minor - 1 WHERE {tax}",
        {Check.MOVEMENT, Check.GROUP},
        "finalize:",
    ),
    "an account": (
        "UPDATE journal_entries SET account = 'breakage' WHERE {tax}",
        {Check.MOVEMENT},
        "finalize:",
    ),
    "a journal group is about nothing": (
        "UPDATE journal_groups SET operation_id = '{nothing}' WHERE operation_id LIKE 'payment:%'",
        {Check.GROUP, Check.MOVEMENT, Check.PROVIDER},
        NOTHING,
    ),
    "a payment": (
        "UPDATE invoice_payments SET amount_minor = 201",
        {Check.PAYMENTS, Check.MOVEMENT, Check.PROVIDER},
        "wire 1",
    ),
    "a draw": (
        "UPDATE credit_draws SET amount_minor = amount_minor - 1",
        {Check.DRAWS, Check.GRANT},
        "INV-00000002",
    ),
    "what is left of a grant": (
        "UPDATE credit_grants SET remaining_minor = 3",
        {Check.GRANT, Check.BALANCE},
        "credit grant",
    ),
    "a grant's amount": (
        "UPDATE credit_grants SET amount_minor = 71",
        {Check.GRANT, Check.MOVEMENT},
        "credit grant",
    ),
    "a counter's use": (
        "UPDATE quota_counters SET used = used + 1",
        {Check.COUNTER},
        "requests 2026-09: used",
    ),
    "a counter's lost use": (
        "UPDATE quota_counters SET used = used - 1",
        {Check.COUNTER, Check.REQUESTS},
        "requests 2026-09: used",
    ),
    "what a counter holds": (
        "UPDATE quota_counters SET held = held + 1",
        {Check.COUNTER},
        "requests 2026-09: held",
    ),
}


@pytest.mark.parametrize("name", sorted(SABOTAGE))
async def test_whatever_is_changed_behind_the_services_is_found_and_named(
    house: House, sabotage: Callable[[str], None], name: str
) -> None:
    statement, checks, named = SABOTAGE[name]
    sabotage(prepared(house, statement))
    run = await house.run()
    assert {each.check for each in run.differences} == checks, run.differences
    assert any(named in each.subject for each in run.differences), run.differences
    assert all(each.expected != each.found and each.look for each in run.differences)
    assert {each.tenant_id for each in run.differences} == {TENANT}
    assert run.num_differences == len(run.differences)
    alarms = await house.events.recent(limit=100)
    assert len(alarms) == run.num_differences
    for alarm in alarms:
        assert (alarm.event_type, alarm.severity) == (
            SecurityEventType.COMPLIANCE_VIOLATION,
            ThreatLevel.CRITICAL,
        )
        assert alarm.reason.removeprefix("books_differ:") in checks
    assert (await house.reconciliation.recent(limit=1))[0] == run


def prepared(house: House, statement: str) -> str:
    """Put in what only the database's dialect can say: bytes."""
    changed = use_of(house.clock, 1000, event="event-1", at=SEPTEMBER.start + timedelta(days=3, seconds=1))
    body = b'{"lines": []}'
    values = {"digest": changed.body_sha256(), "body": body, "body_digest": hashlib.sha256(body).digest()}
    if house.database.is_sqlite:
        spelled = {name: f"X'{value.hex()}'" for name, value in values.items()}
    else:
        spelled = {name: f"'\\x{value.hex()}'::bytea" for name, value in values.items()}
    return statement.format(
        **spelled,
        nothing=NOTHING,
        tax="account = 'tax_payable' AND amount_minor < -50",
        usage="(SELECT id FROM usage_records WHERE event_id = 'event-0')",
    )


async def test_a_provider_that_took_something_else_is_found(house: House) -> None:
    class Other:
        async def taken(self, payments: Sequence[Payment]) -> dict[UUID, int]:
            return {payment.id: payment.amount_minor + 1 for payment in payments}

    house.reconciliation._provider = Other()  # the seam where another provider is asked
    (difference,) = (await house.run()).differences
    assert (difference.check, difference.expected, difference.found) == (Check.PROVIDER, "201", "200")


async def test_writers_are_not_waited_for_and_not_seen(house: House) -> None:
    """What is written while a reconciliation reads belongs to the next one: no difference of two moments."""
    writing = asyncio.Event()

    async def write() -> None:
        for number in range(20):
            invoice = house.invoices[0]
            await house.desk.settlement.record_payment(
                invoice.id, amount_minor=1, reference=f"wire {number + 2}", **KEY
            )
            writing.set()

    task = asyncio.create_task(write())
    await writing.wait()
    runs = [await house.run(page=1) for _ in range(3)]
    await task
    runs.append(await house.run())
    assert [run.differences for run in runs] == [()] * 4
    assert runs[-1].counted["payments"] == 21


async def test_nothing_is_written_inside_a_snapshot(house: House) -> None:
    async with house.reader.snapshot():
        with pytest.raises(PlatformError, match="snapshot"):
            async with house.database.unit_of_work():
                pass


def canary_of(house: House) -> Canary:
    return Canary(
        desk=house.desk,
        quotas=QuotaService(store=SqlReservationStore(house.database), clock=house.clock),
        metering=MeteringService(store=house.usage),
        unit_of_work=house.database.unit_of_work,
        clock=house.clock,
        alarm=house.reconciliation._alarm,
    )


async def test_the_canary_comes_to_its_known_answer_every_hour_and_however_often(house: House) -> None:
    # 10 EUR, (3833 - 400) / 4 = 858, 29 packages of 9; with 19 % on each.
    assert known_answer() == 1190 + (858 + 163) + (261 + 50)
    canary = canary_of(house)
    for _ in range(3):
        assert await canary.run() is None
        assert await canary.run() is None  # again in the same hour
        house.clock.advance(seconds=3600)
    assert await house.events.recent(limit=9) == []
    assert (await house.run()).differences == ()
    tenants = await house.usage.activity(start=SEPTEMBER.start, end=house.clock.now())
    assert tenants == []  # no report of what is used counts it: it is nobody's tenant


async def test_a_canary_that_is_priced_or_counted_wrongly_is_an_alarm(
    house: House, sabotage: Callable[[str], None]
) -> None:
    canary = canary_of(house)
    assert await canary.run() is None
    sabotage("DELETE FROM usage_records WHERE source = 'canary' AND event_id = '1'")
    again = await canary.run()  # recorded anew, and counted once more
    assert again is not None
    assert again.check is Check.CANARY
    assert "'requests': 4" in again.found
    (alarm,) = await house.events.recent(limit=9)
    assert (alarm.severity, alarm.reason) == (ThreatLevel.CRITICAL, "books_differ:canary")


async def test_a_canary_is_never_billed_by_the_calendar(house: House) -> None:
    await canary_of(house).run()
    house.clock.advance(seconds=60 * 86_400)
    await house.desk.calendar.run()
    assert {each.tenant_id for each in await house.desk.invoices.list(limit=99)} == {TENANT}
