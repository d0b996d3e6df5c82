"""A health score follows from recorded facts alone: the slow twin agrees, and what is kept is made again."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import tritium_scoring_oracle as oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.migrate import synchronous_engine
from tritium_platform.billing.invoice import Invoice, InvoiceKind, InvoiceStatus
from tritium_platform.billing.journal import JournalGroup, entries_of
from tritium_platform.billing.list_plan import plan_of
from tritium_platform.billing.payment import (
    AttemptState,
    Decline,
    DisputeState,
    PaymentAttempt,
    PaymentDispute,
)
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.billing.rating.plan_json import plan_id
from tritium_platform.errors import NotFoundError, ValidationError
from tritium_platform.insight.health import OutcomeKind
from tritium_platform.insight.scores import ScoreService, check_arithmetic
from tritium_platform.quotas.model import QuotaMeter, Reservation
from tritium_platform.tenancy.model import Tenant, TenantTier
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from conftest import Books

AS_OF = datetime(2026, 11, 20, 9, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PLAN = plan_of(default_price_version())

hours = st.integers(-24 * 24, 3).map(lambda count: AS_OF + count * HOUR)
moments = st.integers(-100 * 24 * 60, 24 * 60).map(lambda count: AS_OF + timedelta(minutes=count))
kinds = st.sampled_from(["success", "success", "success", "failed", "refused", "rejected"])
amounts = st.integers(1, 300)
currencies = st.sampled_from(["EUR", "USD"])


@st.composite
def bills(draw: st.DrawFn) -> tuple[datetime, datetime, int, str, datetime | None]:
    at = draw(moments)
    ended = draw(st.none() | st.integers(1, 50).map(lambda days: at + days * DAY))
    return at, at + draw(st.integers(0, 40)) * DAY, draw(amounts), draw(currencies), ended


lives = st.builds(
    oracle.RawRows,
    outcomes=st.lists(st.tuples(hours, kinds, st.integers(0, 20)), max_size=25),
    ceiling=st.none() | st.integers(1, 12),
    bills=st.lists(bills(), max_size=4, unique_by=lambda bill: bill[1]),
    payments=st.lists(st.tuples(moments, amounts, currencies), max_size=3),
    declines=st.lists(moments, max_size=3),
    disputes=st.lists(moments, max_size=1),
)


class OneTenant:
    """Knows a tenant."""

    def __init__(self, tenant_id: UUID) -> None:
        self.tenant = Tenant(tenant_id, "Acme", TenantTier.TEAM, AS_OF)

    async def list_tenants(self) -> Sequence[Tenant]:
        return [self.tenant]


def service(books: Books, tenant_id: UUID, *, now: datetime = AS_OF) -> ScoreService:
    return ScoreService(
        facts=books.facts, store=books.scores, tenants=OneTenant(tenant_id), clock=ManualClock(now)
    )


async def live(books: Books, rows: oracle.RawRows) -> UUID:
    """Write raw rows through the stores, as a new tenant's."""
    tenant_id = uuid7()
    await books.plans.add_plan(PLAN, at=AS_OF)
    async with books.unit_of_work():
        for (hour, kind, bucket), times in Counter(rows.outcomes).items():
            await books.outcomes.count(
                tenant_id, hour=hour, kind=OutcomeKind(kind), latency_bucket=bucket, times=times
            )
        if rows.ceiling is not None:
            period = str(CalendarMonth.of(AS_OF))
            await books.reservations.hold(a_reservation(tenant_id, period=period), limit=rows.ceiling)
        invoices = [await bill(books, tenant_id, number, each) for number, each in enumerate(rows.bills)]
        for at, amount, currency in rows.payments:
            await post(books, tenant_id, f"payment:{uuid7()}", at=at, currency=currency, amount=-amount)
        await complain(books, tenant_id, rows, invoice=invoices[0] if invoices else None)
    return tenant_id


def a_reservation(tenant_id: UUID, *, period: str) -> Reservation:
    return Reservation(
        id=uuid7(),
        tenant_id=tenant_id,
        meter=QuotaMeter.REQUESTS,
        period=period,
        amount=1,
        created_at=AS_OF,
        expires_at=AS_OF + HOUR,
    )


async def bill(books: Books, tenant_id: UUID, number: int, given_bill: Any) -> Invoice:
    at, due, amount, currency, ended = given_bill
    head = Invoice(
        id=uuid7(),
        tenant_id=tenant_id,
        kind=InvoiceKind.INVOICE,
        status=InvoiceStatus.FINALIZED,
        period=CalendarMonth(2026, number + 1),
        currency=currency,
        plan_id=plan_id(PLAN),
        created_at=at,
        number=f"INV-{number}",
        finalized_at=at,
        due_at=due,
        total_minor=amount,
    )
    await books.money.invoices.add(head)
    await post(books, tenant_id, f"finalize:{head.id}", at=at, currency=currency, amount=amount)
    if ended is not None:
        kind = "void" if number % 2 else "write_off"
        await post(books, tenant_id, f"{kind}:{head.id}", at=ended, currency=currency, amount=-amount)
    return head


async def post(
    books: Books, tenant_id: UUID, operation: str, *, at: datetime, currency: str, amount: int
) -> None:
    entries = entries_of(currency, receivable=amount, revenue=-amount)
    await books.money.journal.post(
        JournalGroup(
            id=uuid7(),
            operation_id=operation,
            tenant_id=tenant_id,
            description="test",
            occurred_at=at,
            entries=entries,
        )
    )


async def complain(books: Books, tenant_id: UUID, rows: oracle.RawRows, *, invoice: Invoice | None) -> None:
    """Write attempts that were declined, and disputes, about an invoice."""
    if invoice is None:  # there is nothing to be paid
        rows.declines, rows.disputes = [], []
        return
    for number, at in enumerate(rows.declines, 1):
        made = an_attempt(invoice, number=number, at=at)
        await books.money.payments.add(made)
        await books.money.payments.save(made)
    for number, at in enumerate(rows.disputes, 90):
        made = an_attempt(invoice, number=number, at=at, decline=None)
        await books.money.payments.add(made)
        await books.money.payments.save_dispute(a_dispute(made, at=at))


def an_attempt(invoice: Invoice, *, number: int, at: datetime, decline: Any = Decline.SOFT) -> PaymentAttempt:
    return PaymentAttempt(
        id=uuid7(),
        invoice_id=invoice.id,
        tenant_id=invoice.tenant_id,
        number=number,
        provider="stripe",
        idempotency_key=uuid7().hex,
        state=AttemptState.FAILED,
        amount_minor=1,
        currency=invoice.currency,
        created_at=at,
        changed_at=at,
        decline=decline,
    )


def a_dispute(attempt: PaymentAttempt, *, at: datetime) -> PaymentDispute:
    return PaymentDispute(
        id=uuid7(),
        attempt_id=attempt.id,
        tenant_id=attempt.tenant_id,
        provider="stripe",
        reference=uuid7().hex,
        state=DisputeState.OPENED,
        amount_minor=1,
        cash_minor=-1,
        fee_minor=0,
        version=1,
        created_at=at,
        changed_at=at,
    )


def in_a_loop(url: str | None, books_of: Callable[[Database], Books], work: Any) -> None:
    """Run work on a database in a loop of its own."""

    async def run() -> None:
        database = Database(url or "")
        try:
            await work(books_of(database))
        finally:
            await database.close()

    asyncio.run(run())


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=lives)
def test_the_fast_path_says_what_the_slow_twin_says(
    sql_url: str, books_in: Callable[[Database], Books], rows: oracle.RawRows
) -> None:
    async def compare(books: Books) -> None:
        tenant_id = await live(books, rows)
        await live(books, rows)  # another one's, of which nothing is seen
        scored = await service(books, tenant_id).score(tenant_id, as_of=AS_OF)
        assert {each.name: each.figure for each in scored.components} == oracle.figures(rows, AS_OF)
        assert scored.score == oracle.score(rows, AS_OF)
        assert [each.weight for each in scored.components] == [each[0] for each in oracle.WEIGHTS.values()]

    in_a_loop(sql_url, books_in, compare)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=lives)
def test_in_memory_it_says_the_same(memory_books: Callable[[], Books], rows: oracle.RawRows) -> None:
    async def compare() -> None:
        books = memory_books()
        tenant_id = await live(books, rows)
        await live(books, rows)
        scored = await service(books, tenant_id).score(tenant_id, as_of=AS_OF)
        assert {each.name: each.figure for each in scored.components} == oracle.figures(rows, AS_OF)
        assert scored.score == oracle.score(rows, AS_OF)

    asyncio.run(compare())


A_LIFE = oracle.RawRows(
    outcomes=[(AS_OF - count * HOUR, "success", 9) for count in range(1, 40)] + [(AS_OF - HOUR, "failed", 3)],
    ceiling=1000,
    bills=[(AS_OF - 40 * DAY, AS_OF - 10 * DAY, 500, "EUR", None)],
    payments=[(AS_OF - 5 * DAY, 100, "EUR")],
)


async def test_the_same_facts_at_the_same_hour_give_the_same_bytes_whatever_came_later(books: Books) -> None:
    tenant_id = await live(books, A_LIFE)
    first = await service(books, tenant_id).score(tenant_id, as_of=AS_OF)
    await books.outcomes.count(tenant_id, hour=AS_OF, kind=OutcomeKind.FAILED, latency_bucket=1, times=999)
    await post(books, tenant_id, "payment:late", at=AS_OF, currency="EUR", amount=-400)
    again = await service(books, tenant_id, now=AS_OF + 3 * DAY).score(tenant_id, as_of=AS_OF)
    assert again.body() == first.body()
    assert (first.score, again.sha256) == (again.score, first.sha256)
    later = await service(books, tenant_id, now=AS_OF + 3 * DAY).score(tenant_id, as_of=AS_OF + HOUR)
    assert later.facts.week.failed == 1000
    assert later.facts.overdue == ()


async def test_a_score_is_kept_once_and_listed_newest_first(books: Books) -> None:
    tenant_id = await live(books, A_LIFE)
    scores = service(books, tenant_id, now=AS_OF + 2 * DAY)
    days = [AS_OF.replace(hour=0) + count * DAY for count in range(3)]
    assert [await scores.keep(tenant_id, as_of=day) for day in days] == [True, True, True]
    assert not await scores.keep(tenant_id, as_of=days[0])
    assert await scores.keep_day() == 0
    kept = await scores.history(tenant_id, limit=2)
    assert [each.as_of for each in kept] == days[:0:-1]
    rest = await scores.history(tenant_id, limit=2, before=kept[-1].as_of)
    assert [each.as_of for each in rest] == days[:1]
    assert await scores.history(uuid7(), limit=9) == []
    assert await books.scores.get(tenant_id, as_of=days[2]) == kept[0]
    assert await books.scores.get(tenant_id, as_of=days[2] + HOUR) is None
    assert not await books.scores.add(replace(kept[0], score=1))
    with pytest.raises(ValidationError, match="an hour that is over"):
        await scores.keep(tenant_id, as_of=AS_OF + 2 * DAY + HOUR)


async def test_a_kept_score_is_made_again_and_each_fact_that_is_another_now_is_named(books: Books) -> None:
    tenant_id = await live(books, A_LIFE)
    scores = service(books, tenant_id, now=AS_OF + DAY)
    await scores.keep(tenant_id, as_of=AS_OF)
    assert await scores.recompute(tenant_id, as_of=AS_OF) == []
    # A settlement that waited in a spool, a raised quota, a hand in the journal.
    await books.outcomes.count(
        tenant_id, hour=AS_OF - HOUR, kind=OutcomeKind.FAILED, latency_bucket=1, times=2
    )
    await books.reservations.hold(a_reservation(tenant_id, period="2026-11"), limit=2000)
    await post(books, tenant_id, "payment:by hand", at=AS_OF - DAY, currency="EUR", amount=-50)
    found = await scores.recompute(tenant_id, as_of=AS_OF)
    assert [(each.what, each.kept, each.now) for each in found] == [
        ("facts.month_ceiling", "1000", "2000"),
        ("facts.overdue.EUR.amount_minor", "400", "350"),
        ("facts.week.failed", "1", "3"),
    ]
    with pytest.raises(NotFoundError):
        await scores.recompute(tenant_id, as_of=AS_OF + HOUR)


async def test_a_kept_score_that_somebody_changed_is_found_and_the_database_refuses_it(
    sql_books: Books, sql_url: str
) -> None:
    tenant_id = await live(sql_books, A_LIFE)
    scores = service(sql_books, tenant_id)
    await scores.keep(tenant_id, as_of=AS_OF)
    engine = synchronous_engine(sql_url)
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text("UPDATE health_scores SET score = 100"))
    engine.dispose()
    kept = await sql_books.scores.get(tenant_id, as_of=AS_OF)
    assert kept is not None
    assert [each.what for each in check_arithmetic(replace(kept, score=100))] == ["score"]
    body = json.loads(kept.body)
    body["facts"]["week"]["failed"] = 0
    forged = replace(kept, body=json.dumps(body).encode())
    assert {each.what for each in check_arithmetic(forged)} == {"score", "body"}
    assert [each.what for each in check_arithmetic(replace(kept, definition=99))] == ["definition"]
    assert [each.what for each in check_arithmetic(replace(kept, body=b"{}"))] == ["body"]
    assert check_arithmetic(kept) == []


async def test_a_quota_beyond_the_whole_numbers_of_json_is_scored(books: Books) -> None:
    tenant_id = await live(books, replace(A_LIFE, ceiling=2**60))
    scored = await service(books, tenant_id).score(tenant_id, as_of=AS_OF)
    assert json.loads(scored.body())["facts"]["month_ceiling"] == 2**53 - 1
    assert scored.score is not None


@pytest.mark.parametrize(
    "as_of", [AS_OF + timedelta(minutes=1), AS_OF + 2 * HOUR, AS_OF.replace(tzinfo=None)]
)
async def test_a_score_is_of_a_full_hour_that_has_begun(books: Books, as_of: datetime) -> None:
    tenant_id = uuid7()
    with pytest.raises(ValidationError, match="a full hour that has begun"):
        await service(books, tenant_id).score(tenant_id, as_of=as_of)
    assert (await service(books, tenant_id).score(tenant_id)).score is None
