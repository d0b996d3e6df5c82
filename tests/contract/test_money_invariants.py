"""What the database itself refuses: an unbalanced journal, a changed document, gaps in numbers, two bills."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.journal_store import SqlJournalStore
from tritium_platform.adapters.sql.migrate import synchronous_engine
from tritium_platform.billing.invoice import (
    CreditGrant,
    Invoice,
    InvoiceDocument,
    InvoiceKind,
    InvoiceStatus,
    Payment,
)
from tritium_platform.billing.journal import JournalEntry, JournalGroup, entries_of
from tritium_platform.billing.list_plan import plan_of
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.billing.rating.plan_json import plan_id
from tritium_platform.errors import ConflictError, ValidationError
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Books
    from sqlalchemy import Connection, Engine

AT = datetime(2026, 11, 5, tzinfo=UTC)
MONTH = CalendarMonth(2026, 10)
REFUSED = IntegrityError
PLAN = plan_of(default_price_version())


def group(**amounts: int) -> JournalGroup:
    return JournalGroup(
        id=uuid7(),
        operation_id=f"test:{uuid7()}",
        tenant_id=UUID(int=5),
        description="a test",
        occurred_at=AT,
        entries=entries_of("USD", **amounts),
    )


def invoice(**values: Any) -> Invoice:
    return Invoice(
        **{
            "id": uuid7(),
            "tenant_id": UUID(int=5),
            "kind": InvoiceKind.INVOICE,
            "status": InvoiceStatus.DRAFT,
            "period": MONTH,
            "currency": "USD",
            "plan_id": plan_id(PLAN),
            "created_at": AT,
            **values,
        }
    )


def document(of: Invoice, sequence: int) -> InvoiceDocument:
    return InvoiceDocument(
        invoice_id=of.id,
        tenant_id=of.tenant_id,
        series="INV",
        sequence=sequence,
        number=f"INV-{sequence:08d}",
        body=b"{}",
        sha256=b"0" * 32,
        note=b"note",
        verifier_key="key",
    )


async def test_a_group_that_balances_is_kept_once_per_operation(books: Books) -> None:
    made = group(receivable=5, revenue=-4, tax_payable=-1)
    await books.money.journal.post(made)
    assert await books.money.journal.list(limit=9) == [made]
    with pytest.raises(ConflictError):
        await books.money.journal.post(replace(made, id=uuid7()))
    assert await books.money.journal.list(limit=9) == [made]
    later = group(cash_clearing=5, receivable=-5)
    await books.money.journal.post(later)
    assert await books.money.journal.list(limit=9, after=made.id) == [later]


@pytest.mark.parametrize("amounts", [{"receivable": 5, "revenue": -4}, {}, {"receivable": 5}])
def test_what_does_not_balance_is_no_group(amounts: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        group(**amounts)


def test_a_group_balances_in_every_currency_by_itself() -> None:
    with pytest.raises(ValidationError):
        replace(
            group(receivable=5, revenue=-5),
            entries=(*entries_of("USD", receivable=5), *entries_of("EUR", revenue=-5)),
        )


def raw_group(connection: Connection, group_id: UUID, entries: list[tuple[int, str]], *, at: int = 0) -> None:
    for place, (amount, currency) in enumerate(entries, start=at):
        connection.execute(
            text("INSERT INTO journal_entries VALUES (:group, :place, 'revenue', :amount, :currency)"),
            {"group": plain(connection, group_id), "place": place, "amount": amount, "currency": currency},
        )


def raw_head(connection: Connection, group_id: UUID) -> None:
    connection.execute(
        text(
            "INSERT INTO journal_groups (id, operation_id, tenant_id, description, occurred_at) "
            "VALUES (:id, :operation, :id, 'raw', '2026-11-05 00:00:00')"
        ),
        {"id": plain(connection, group_id), "operation": str(group_id)},
    )


def plain(connection: Connection, identity: UUID) -> object:
    return identity.hex if connection.dialect.name == "sqlite" else identity


BREAKS: dict[str, Callable[[Connection, UUID], None]] = {}


def breaks(write: Callable[[Connection, UUID], None]) -> Callable[[Connection, UUID], None]:
    BREAKS[write.__name__] = write
    return write


@breaks
def one_cent_too_much(connection: Connection, group_id: UUID) -> None:
    raw_group(connection, group_id, [(100, "USD"), (-99, "USD")])
    raw_head(connection, group_id)


@breaks
def two_currencies_that_only_sum_to_zero_together(connection: Connection, group_id: UUID) -> None:
    raw_group(connection, group_id, [(100, "USD"), (-100, "EUR")])
    raw_head(connection, group_id)


@breaks
def a_group_without_entries(connection: Connection, group_id: UUID) -> None:
    raw_head(connection, group_id)


@breaks
def entries_without_a_group(connection: Connection, group_id: UUID) -> None:
    raw_group(connection, group_id, [(100, "USD"), (-100, "USD")])


@breaks
def entries_after_the_group(connection: Connection, group_id: UUID) -> None:
    raw_group(connection, group_id, [(100, "USD"), (-100, "USD")])
    raw_head(connection, group_id)
    raw_group(connection, group_id, [(7, "USD"), (-7, "USD")], at=2)


@breaks
def an_amount_of_nothing(connection: Connection, group_id: UUID) -> None:
    raw_group(connection, group_id, [(0, "USD"), (0, "USD")])
    raw_head(connection, group_id)


@pytest.mark.parametrize("name", sorted(BREAKS))
def test_the_database_takes_no_journal_that_does_not_balance(sql_url: str, name: str) -> None:
    engine = synchronous_engine(sql_url)
    group_id = uuid7()
    with pytest.raises(REFUSED), engine.begin() as connection:
        BREAKS[name](connection, group_id)
    with engine.begin() as connection:  # the twin that balances is taken, so it was the imbalance
        raw_group(connection, group_id, [(100, "USD"), (-60, "USD"), (-40, "USD"), (5, "EUR"), (-5, "EUR")])
        raw_head(connection, group_id)
        assert connection.execute(text("SELECT COUNT(*) FROM journal_entries")).scalar_one() == 5
    engine.dispose()


@pytest.mark.service
def test_an_entry_of_another_transaction_cannot_slip_into_a_group(
    request: pytest.FixtureRequest, migrated_postgresql: str
) -> None:
    engine = synchronous_engine(migrated_postgresql)
    group_id = uuid7()
    first, second = engine.connect(), engine.connect()
    raw_group(first, group_id, [(100, "USD"), (-100, "USD")])
    raw_head(first, group_id)
    raw_group(second, group_id, [(7, "USD")], at=2)  # it sees no group yet
    first.commit()
    with pytest.raises(REFUSED):
        second.commit()
    first.close()
    second.close()
    engine.dispose()


async def filled(books: Books) -> Invoice:
    """Keep one of everything that is written once."""
    await books.plans.add_plan(PLAN, at=AT)
    await books.prices.add(default_price_version())
    money = books.money
    made = invoice()
    assert await money.invoices.add(made)
    closed = replace(
        made, status=InvoiceStatus.FINALIZED, finalized_at=AT, due_at=AT, total_minor=100, drawn_minor=30
    )
    await money.invoices.save(closed)
    assert await money.invoices.next_number("INV") == 1
    await money.invoices.add_document(document(made, 1))
    grant = CreditGrant(
        id=uuid7(),
        tenant_id=made.tenant_id,
        currency="USD",
        amount_minor=30,
        remaining_minor=30,
        reason="test",
        created_at=AT,
    )
    await money.credits.add(grant)
    await money.credits.draw(closed, [(grant.id, 30)])
    await money.invoices.add_payment(
        Payment(
            id=uuid7(),
            invoice_id=made.id,
            tenant_id=made.tenant_id,
            amount_minor=7,
            reference="wire",
            received_at=AT,
        )
    )
    await money.journal.post(group(receivable=100, revenue=-100))
    return closed


FORBIDDEN = [
    "UPDATE invoice_documents SET body = body",
    "UPDATE invoice_documents SET number = 'INV-9'",
    "DELETE FROM invoice_documents",
    "DELETE FROM invoices",
    "UPDATE invoices SET total_minor = total_minor + 1",
    "UPDATE invoices SET status = 'draft'",
    "UPDATE invoices SET period = '2026-09'",
    "UPDATE invoices SET tenant_id = '0193a000000070008000000000000001'",
    "UPDATE invoices SET paid_minor = 71",
    "UPDATE invoices SET paid_minor = -1",
    "UPDATE price_plans SET name = 'cheaper'",
    "DELETE FROM price_plans",
    "UPDATE price_versions SET body = ''",
    "DELETE FROM price_versions",
    "UPDATE invoice_payments SET amount_minor = 1",
    "DELETE FROM invoice_payments",
    "UPDATE credit_draws SET amount_minor = 1",
    "DELETE FROM credit_draws",
    "UPDATE credit_grants SET remaining_minor = -1",
    "UPDATE credit_grants SET remaining_minor = 31",
    "UPDATE journal_groups SET description = ''",
    "DELETE FROM journal_groups",
    "UPDATE journal_entries SET amount_minor = amount_minor * 2",
    "DELETE FROM journal_entries",
]


def execute(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        changed = connection.execute(text(statement))
    assert changed.rowcount, statement  # else nothing was there to refuse


async def test_what_is_written_once_is_never_changed(sql_books: Books, sql_url: str) -> None:
    kept = await filled(sql_books)
    engine = synchronous_engine(sql_url)
    for statement in FORBIDDEN:
        with pytest.raises(REFUSED):
            execute(engine, statement)
    if not sql_url.startswith("sqlite"):
        for table in ("invoice_documents", "journal_entries", "price_plans"):
            with pytest.raises(REFUSED), engine.begin() as connection:
                connection.execute(text(f"TRUNCATE {table} CASCADE"))
    engine.dispose()
    assert await sql_books.money.invoices.get(kept.id) == kept
    assert await sql_books.money.invoices.document(kept.id) == document(kept, 1)


async def test_an_invoice_that_came_to_its_end_stays_there(sql_books: Books, sql_url: str) -> None:
    kept = await filled(sql_books)
    await sql_books.money.invoices.save(replace(kept, status=InvoiceStatus.VOID))
    engine = synchronous_engine(sql_url)
    for change in ("status = 'paid'", "paid_minor = 1", "credited_minor = 1"):
        with pytest.raises(REFUSED), engine.begin() as connection:
            connection.execute(text(f"UPDATE invoices SET {change}"))
    engine.dispose()


@pytest.mark.parametrize("sequence", [0, 3, 1])
async def test_a_number_that_leaves_a_gap_or_comes_twice_is_refused(books: Books, sequence: int) -> None:
    await filled(books)
    other = invoice(period=MONTH.next())
    await books.money.invoices.add(other)
    with pytest.raises((REFUSED, ConflictError)):
        await books.money.invoices.add_document(document(other, sequence))
    await books.money.invoices.add_document(document(other, 2))


async def test_a_month_is_billed_once_per_currency(books: Books) -> None:
    kept = await filled(books)
    again = invoice()
    assert not await books.money.invoices.add(again)
    assert await books.money.invoices.add(replace(again, currency="EUR"))
    assert await books.money.invoices.add(invoice(period=MONTH.next()))
    await books.money.invoices.save(replace(kept, status=InvoiceStatus.VOID))
    assert await books.money.invoices.add(invoice())
    assert not await books.money.invoices.add(invoice())


async def test_numbers_taken_at_the_same_time_have_no_gap_though_some_are_given_up(
    sql_books: Books, sql_url: str
) -> None:
    await sql_books.plans.add_plan(PLAN, at=AT)
    databases = [sql_books.database, Database(sql_url), Database(sql_url)]
    taken: list[int] = []

    async def take(place: int) -> None:
        from tritium_platform.adapters.sql.invoice_store import SqlInvoiceStore  # noqa: PLC0415

        database = databases[place % len(databases)]
        assert isinstance(database, Database)
        store = SqlInvoiceStore(database)
        made = invoice(tenant_id=uuid7())
        async with database.unit_of_work():
            number = await store.next_number("INV")
            await asyncio.sleep(0.002)
            if place % 3 == 0:
                raise ZeroDivisionError
            await store.add(made)
            await store.add_document(document(made, number))
        taken.append(number)

    results = await asyncio.gather(*(take(place) for place in range(30)), return_exceptions=True)
    for database in databases[1:]:
        assert isinstance(database, Database)
        await database.close()
    assert [type(each) for each in results].count(ZeroDivisionError) == 10
    assert sorted(taken) == list(range(1, 21))


async def test_a_journal_entry_has_whole_minor_units(sql_books: Books) -> None:
    assert isinstance(sql_books.money.journal, SqlJournalStore)
    wrong: Any = (JournalEntry("receivable", 0.5, "USD"), JournalEntry("revenue", -0.5, "USD"))  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        replace(group(receivable=1, revenue=-1), entries=wrong)
