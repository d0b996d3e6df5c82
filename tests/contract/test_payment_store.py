"""What every store of payments promises, and what the databases themselves refuse."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tritium_platform.adapters.sql.migrate import synchronous_engine
from tritium_platform.billing.dunning_notice import DunningNotice, NoticeKind
from tritium_platform.billing.invoice import Invoice, InvoiceKind, InvoiceStatus
from tritium_platform.billing.journal import JournalGroup, entries_of
from tritium_platform.billing.list_plan import plan_of
from tritium_platform.billing.payment import (
    AttemptState,
    Decline,
    DisputeState,
    PaymentAttempt,
    PaymentDispute,
    PaymentMethod,
    PaymentRefund,
    ProviderEvent,
    RefundState,
    idempotency_key,
)
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.billing.rating.plan_json import plan_id
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from conftest import Books

AT = datetime(2026, 11, 5, tzinfo=UTC)
TENANT = UUID(int=5)
PLAN = plan_of(default_price_version())


async def invoice(books: Books, *, month: int = 10) -> Invoice:
    await books.plans.add_plan(PLAN, at=AT)
    made = Invoice(
        id=uuid7(),
        tenant_id=TENANT,
        kind=InvoiceKind.INVOICE,
        status=InvoiceStatus.DRAFT,
        period=CalendarMonth(2026, month),
        currency="USD",
        plan_id=plan_id(PLAN),
        created_at=AT,
    )
    await books.money.invoices.add(made)
    return made


def attempt(of: Invoice, number: int = 1, **values: Any) -> PaymentAttempt:
    fields: dict[str, Any] = {
        "id": uuid7(),
        "invoice_id": of.id,
        "tenant_id": of.tenant_id,
        "number": number,
        "provider": "stripe",
        "idempotency_key": idempotency_key(of.id, number),
        "state": AttemptState.CREATED,
        "amount_minor": 100,
        "currency": "USD",
        "created_at": AT,
        "changed_at": AT,
    }
    return PaymentAttempt(**fields | values)


def refund(of: PaymentAttempt, **values: Any) -> PaymentRefund:
    fields: dict[str, Any] = {
        "id": uuid7(),
        "attempt_id": of.id,
        "invoice_id": of.invoice_id,
        "tenant_id": of.tenant_id,
        "number": 1,
        "idempotency_key": idempotency_key(of.id, 1),
        "state": RefundState.CREATED,
        "amount_minor": 10,
        "reason": "sorry",
        "created_at": AT,
        "changed_at": AT,
    }
    return PaymentRefund(**fields | values)


def dispute(of: PaymentAttempt) -> PaymentDispute:
    return PaymentDispute(
        id=uuid7(),
        attempt_id=of.id,
        tenant_id=of.tenant_id,
        provider="stripe",
        reference="dp_1",
        state=DisputeState.OPENED,
        amount_minor=100,
        cash_minor=-115,
        fee_minor=15,
        version=1,
        created_at=AT,
        changed_at=AT,
    )


async def test_an_invoice_has_one_attempt_that_is_not_resolved(books: Books) -> None:
    store, of = books.money.payments, await invoice(books)
    first = attempt(of)
    assert await store.add(first)
    assert not await store.add(attempt(of, 2))
    assert not await store.add(attempt(of, 1))
    failed = replace(
        first, state=AttemptState.FAILED, decline=Decline.SOFT, code="poor", reference="pi_1", fee_minor=0
    )
    await store.save(failed)
    assert not await store.add(attempt(of, 1))
    second = attempt(of, 2)
    assert await store.add(second)
    assert await store.of_invoice(of.id) == [failed, second]
    assert await store.get(first.id) == await store.lock(first.id) == failed
    assert await store.get(uuid7()) is await store.lock(uuid7()) is None
    assert await store.find("stripe", "pi_1") == failed
    assert await store.find("manual", "pi_1") is None


async def test_attempts_come_in_pages(books: Books) -> None:
    store = books.money.payments
    made = [attempt(await invoice(books, month=month)) for month in (8, 9, 10)]
    for each in made:
        await store.add(each)
    newest = sorted(made, key=lambda each: each.id, reverse=True)
    assert await store.list(tenant_id=None, limit=2) == newest[:2]
    assert await store.list(tenant_id=TENANT, limit=9, after=newest[1].id) == newest[2:]
    assert await store.list(tenant_id=UUID(int=6), limit=9) == []
    oldest, later = newest[::-1], AT + timedelta(seconds=1)
    assert await store.unresolved(before=AT, limit=9) == []
    assert await store.unresolved(before=later, limit=2) == oldest[:2]
    await store.save(replace(oldest[2], state=AttemptState.SUCCEEDED, received_minor=100))
    assert await store.unresolved(before=later, limit=9, after=oldest[0].id) == oldest[1:2]


async def test_refunds_and_disputes_are_kept_with_their_attempt(books: Books) -> None:
    store, of = books.money.payments, await invoice(books)
    made = attempt(of)
    await store.add(made)
    back, lost = refund(made), dispute(made)
    await store.add_refund(back)
    assert await store.unresolved_refunds(before=AT + timedelta(1), limit=9) == [back]
    assert await store.unresolved_refunds(before=AT, limit=9) == []
    done = replace(back, state=RefundState.SUCCEEDED, reference="re_1")
    await store.save_refund(done)
    assert await store.refunds(made.id) == [done]
    assert await store.unresolved_refunds(before=AT + timedelta(1), limit=9) == []
    for each in (lost, replace(lost, state=DisputeState.WON, cash_minor=-15, version=2)):
        await store.save_dispute(each)
        assert await store.disputes(made.id) == [each]


async def test_a_tenant_is_charged_the_way_that_was_named_last(books: Books) -> None:
    store = books.money.payments
    assert await store.method(TENANT) is None
    for customer in ("cus_1", "cus_2"):
        method = PaymentMethod(
            tenant_id=TENANT, provider="stripe", customer=customer, method="pm", created_at=AT
        )
        await store.set_method(method)
        assert await store.method(TENANT) == method


async def test_an_event_is_kept_once_and_closed_once(books: Books) -> None:
    events = [
        ProviderEvent(
            id=uuid7(),
            provider="stripe",
            event_id=name,
            kind="payment_intent.succeeded",
            reference="pi_1",
            attempt_id=None,
            received_at=AT,
        )
        for name in ("evt_1", "evt_2")
    ]
    for each in events:
        assert await books.notices.add(each)
        assert not await books.notices.add(replace(each, id=uuid7()))
    ordered = sorted(events, key=lambda each: each.id)
    assert await books.notices.pending(limit=9) == ordered
    assert await books.notices.pending(limit=9, after=ordered[0].id) == ordered[1:]
    await books.notices.close(ordered[0].id, at=AT)
    assert await books.notices.pending(limit=9) == ordered[1:]
    assert not await books.notices.add(replace(ordered[0], id=uuid7()))
    assert await books.notices.cursor("stripe") is None
    for moment in (AT, AT + timedelta(hours=1)):
        await books.notices.move_cursor("stripe", to=moment)
        assert await books.notices.cursor("stripe") == moment


FORBIDDEN = [
    "UPDATE payment_attempts SET amount_minor = 1",
    "UPDATE payment_attempts SET idempotency_key = 'x'",
    "UPDATE payment_attempts SET method = 'another'",
    "UPDATE payment_attempts SET state = 'failed'",
    "UPDATE payment_attempts SET state = 'created'",
    "UPDATE payment_attempts SET received_minor = 99",
    "UPDATE payment_attempts SET refunded_minor = 101",
    "UPDATE payment_attempts SET refunded_minor = -1",
    "DELETE FROM payment_attempts",
    "UPDATE payment_refunds SET amount_minor = 11",
    "UPDATE payment_refunds SET from_credit_minor = 11",
    "DELETE FROM payment_refunds",
    "UPDATE payment_disputes SET version = 0",
    "UPDATE payment_disputes SET reference = 'dp_2'",
    "DELETE FROM payment_disputes",
    "UPDATE provider_events SET event_id = 'evt_9'",
    "DELETE FROM provider_events",
]


async def test_what_was_asked_for_and_what_was_paid_stays(sql_books: Books, sql_url: str) -> None:
    store, of = sql_books.money.payments, await invoice(sql_books)
    made = attempt(of)
    await store.add(made)
    paid = replace(made, state=AttemptState.SUCCEEDED, received_minor=100, reference="pi_1")
    await store.save(paid)
    await store.add_refund(refund(made))
    await store.save_dispute(dispute(made))
    await sql_books.notices.add(
        ProviderEvent(
            id=uuid7(),
            provider="stripe",
            event_id="evt_1",
            kind="k",
            reference="pi_1",
            attempt_id=made.id,
            received_at=AT,
        )
    )
    engine = synchronous_engine(sql_url)
    for statement in FORBIDDEN:
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(text(statement))
    with engine.begin() as connection:  # the twins that are allowed show that it was the change
        for statement in ("state = 'refunded', refunded_minor = 100", "state = 'succeeded'"):
            changed = connection.execute(text(f"UPDATE payment_attempts SET {statement}"))
            assert changed.rowcount == 1
    engine.dispose()
    assert not await store.add(replace(made, id=uuid7()))
    second = attempt(of, 2)
    assert await store.add(second)
    with pytest.raises(IntegrityError):  # a provider's payment is one attempt's
        await store.save(replace(second, reference="pi_1"))


async def test_what_was_made_in_a_period_comes_in_pages_by_id(books: Books) -> None:
    store, hour = books.money.payments, timedelta(hours=1)
    attempts = [
        attempt(await invoice(books, month=month), state=AttemptState.FAILED, created_at=AT + month * hour)
        for month in (1, 2, 3)
    ]
    for each in attempts:
        await store.add(each)
    refunds = [refund(each, idempotency_key=each.id.hex, created_at=each.created_at) for each in attempts]
    disputes = [
        replace(dispute(each), reference=each.id.hex, created_at=each.created_at) for each in attempts
    ]
    for given_back, disputed in zip(refunds, disputes, strict=True):
        await store.add_refund(given_back)
        await store.save_dispute(disputed)
    period = {"start": AT + hour, "end": AT + 3 * hour}
    for read, made in (
        (store.attempts_between, attempts),
        (store.refunds_between, refunds),
        (store.disputes_between, disputes),
    ):
        first = await read(**period, limit=1)
        assert list(first) == made[:1]
        assert list(await read(**period, limit=9, after=first[0].id)) == made[1:2]


async def test_entries_about_an_operation_are_those_of_its_parts_and_of_its_tenant(books: Books) -> None:
    journal, entries = books.money.journal, entries_of("USD", receivable=5, revenue=-5)
    for tenant, operation in ((1, "payment:a"), (1, "payment:a:5:0"), (1, "payment:ab"), (2, "payment:a:7")):
        await journal.post(
            JournalGroup(
                id=uuid7(),
                operation_id=operation,
                tenant_id=UUID(int=tenant),
                description="test",
                occurred_at=AT,
                entries=entries,
            )
        )
    assert list(await journal.entries_about("payment:a", tenant_id=UUID(int=1))) == [*entries, *entries]
    assert list(await journal.entries_about("payment:_", tenant_id=UUID(int=1))) == []


def notice(of: Invoice, **values: Any) -> DunningNotice:
    fields = {
        "id": uuid7(),
        "tenant_id": of.tenant_id,
        "invoice_id": of.id,
        "attempt_number": 1,
        "kind": NoticeKind.SOFT,
        "subject": "a subject",
        "body": "Hello,\n\na text",
        "created_at": AT,
    }
    return DunningNotice(**{**fields, **values})


async def test_a_notice_is_kept_once_per_invoice_attempt_and_kind(books: Books) -> None:
    made = await invoice(books)
    store = books.money.payments
    first, second = notice(made), notice(made, attempt_number=2, kind=NoticeKind.END)
    assert [await store.add_notice(each) for each in (first, second, notice(made))] == [True, True, False]
    assert await store.notices(tenant_id=made.tenant_id, limit=9) == [first, second]
    assert await store.notices(tenant_id=None, limit=1) == [first]
    assert await store.notices(tenant_id=None, limit=9, after=first.id) == [second]
    assert await store.notices(tenant_id=uuid7(), limit=9) == []


async def test_a_notice_goes_with_the_unit_of_work_that_fails(books: Books) -> None:
    made = await invoice(books)

    async def cut() -> None:
        async with books.unit_of_work():
            assert await books.money.payments.add_notice(notice(made))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await cut()
    assert await books.money.payments.notices(tenant_id=None, limit=9) == []
    assert await books.money.payments.add_notice(notice(made))
