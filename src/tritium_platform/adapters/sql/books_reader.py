"""Everything that reconciliation reads, in SQL: pages along indexes, all of one moment."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import select

from tritium_platform.adapters.sql import books_pages as pages
from tritium_platform.adapters.sql.account_sums import journal_sums, left_sums, open_sums, refunded_sums
from tritium_platform.adapters.sql.invoice_store import invoice_line, invoice_of
from tritium_platform.adapters.sql.metering_store import usage_record
from tritium_platform.adapters.sql.tables.invoices import (
    credit_draws,
    credit_grants,
    invoice_documents,
    invoice_lines,
    invoice_payments,
    invoices,
)
from tritium_platform.adapters.sql.tables.journal import journal_entries, journal_groups
from tritium_platform.adapters.sql.tables.payments import payment_attempts, payment_disputes, payment_refunds
from tritium_platform.billing.invoice import CreditGrant, InvoiceDocument, Payment
from tritium_platform.billing.journal import Account, JournalEntry
from tritium_platform.billing.reconciliation.model import (
    BalanceFacts,
    CounterFacts,
    GrantFacts,
    GroupFacts,
    InvoiceFacts,
    KeptUse,
    MonthKey,
    RequestFacts,
)
from tritium_platform.billing.refunds import credit_source
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from datetime import datetime

    from sqlalchemy import Row, Select, Table

    from tritium_platform.adapters.sql.database import Database

OF_AN_INVOICE = ("finalize", "void", "write_off", "credit")
SUBJECTS = frozenset({*OF_AN_INVOICE, "payment", "refund", "dispute", "grant", "expire"})
TABLES = (invoices, invoice_payments, payment_attempts, payment_refunds, payment_disputes, credit_grants)
AT_ONCE = 500
NOBODY = UUID(int=0)


class SqlBooksReader:
    """Reads the books of all tenants by pages."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """Let everything read inside be of one moment, with all that a client was told of before."""
        async with self._database.snapshot():
            yield

    async def uses(self, *, limit: int, after: KeptUse | None) -> Sequence[KeptUse]:
        """Return uses by their ids."""
        statement = pages.uses(limit=limit, after=after)
        return [KeptUse(usage_record(row), bytes(row.body_sha256)) for row in await self._rows(statement)]

    async def counters(self, *, limit: int, after: CounterFacts | None) -> Sequence[CounterFacts]:
        """Return quota counters by tenant, meter and period, beside the sums of their reservations."""
        statement = pages.counters(limit=limit, after=after)
        return [CounterFacts(**row._asdict()) for row in await self._rows(statement)]

    async def requests(self, *, limit: int, after: RequestFacts | None) -> Sequence[RequestFacts]:
        """Return, by tenant, requests of the gateway that succeeded and what is used of their quota."""
        statement = pages.requests(limit=limit, after=after)
        return [
            RequestFacts(
                tenant_id=row.tenant_id,
                succeeded=row.succeeded,
                used=row.used,
                is_clipped=bool(row.full),
            )
            for row in await self._rows(statement)
        ]

    async def invoices(self, *, limit: int, after: InvoiceFacts | None) -> Sequence[InvoiceFacts]:
        """Return invoices and credit notes by their ids, with everything that is filed about them."""
        statement = pages.invoice_heads(limit=limit, after=after)
        heads = [invoice_of(row) for row in await self._rows(statement)]
        ids = [head.id for head in heads]
        documents = {
            row.invoice_id: InvoiceDocument(**row._asdict())
            for row in await self._rows(
                select(invoice_documents).where(invoice_documents.c.invoice_id.in_(ids))
            )
        }
        lines = await self._by_invoice(invoice_lines, ids, order="number")
        payments = await self._by_invoice(invoice_payments, ids, order="id")
        draws = await self._by_invoice(credit_draws, ids, order="grant_id")
        notes: dict[UUID, list[UUID]] = defaultdict(list)
        corrected = invoices.c.credits_invoice_id
        for row in await self._rows(
            select(invoices.c.id, corrected).where(corrected.in_(ids)).order_by(invoices.c.id)
        ):
            notes[row.credits_invoice_id].append(row.id)
        operations = {
            head.id: [
                *(f"{kind}:{head.id}" for kind in OF_AN_INVOICE),
                *(f"payment:{row.id}" for row in payments[head.id]),
                *(f"credit:{note}" for note in notes[head.id]),
            ]
            for head in heads
        }
        movements = await self.movements([name for names in operations.values() for name in names])
        attempt = payment_attempts.c
        brought = select(attempt.invoice_id).where(attempt.invoice_id.in_(ids), attempt.received_minor > 0)
        through_provider = {row.invoice_id for row in await self._rows(brought.distinct())}
        return [
            InvoiceFacts(
                invoice=head,
                document=documents.get(head.id),
                lines=tuple(map(invoice_line, lines[head.id])),
                payments=tuple(Payment(**row._asdict()) for row in payments[head.id]),
                draws=tuple((row.grant_id, row.amount_minor) for row in draws[head.id]),
                notes=tuple(notes[head.id]),
                movements={name: movements[name] for name in operations[head.id] if name in movements},
                is_paid_through_provider=head.id in through_provider,
            )
            for head in heads
        ]

    async def months(self, *, limit: int, after: MonthKey | None) -> Sequence[MonthKey]:
        """Return the months that invoices charged, by tenant."""
        statement = pages.months(limit=limit, after=after)
        rows = await self._rows(statement)
        voids = await self._voids([row.tenant_id for row in rows])
        return [
            MonthKey(
                tenant_id=row.tenant_id,
                month=CalendarMonth.parse(row.period),
                is_reopened=any(at is None or at >= row.last for at in voids[row.tenant_id, row.period]),
            )
            for row in rows
            if row.last is not None
        ]

    async def _voids(self, tenants: Sequence[UUID]) -> dict[tuple[UUID, str], list[datetime | None]]:
        """Return when invoices of months became void, by the journal; None if that moved nothing there."""
        line = invoice_lines.c
        statement = (
            select(line.tenant_id, line.period, line.invoice_id)
            .join(invoices, invoices.c.id == line.invoice_id)
            .where(line.tenant_id.in_(set(tenants)), pages.IS_VOID)
            .distinct()
        )
        found = await self._rows(statement)
        names = {f"void:{row.invoice_id}" for row in found}
        table = journal_groups.c
        moments = {
            row.operation_id: row.occurred_at
            for some in _chunks(sorted(names))
            for row in await self._rows(
                select(table.operation_id, table.occurred_at).where(table.operation_id.in_(some))
            )
        }
        voids: dict[tuple[UUID, str], list[datetime | None]] = defaultdict(list)
        for row in found:
            voids[row.tenant_id, row.period].append(moments.get(f"void:{row.invoice_id}"))
        return voids

    async def grants(self, *, limit: int, after: GrantFacts | None) -> Sequence[GrantFacts]:
        """Return grants of credit by their ids."""
        statement = pages.grants(limit=limit, after=after)
        rows = await self._rows(statement)
        movements = await self.movements([f"grant:{row.id}" for row in rows])
        refunded = await self._refunded({row.tenant_id for row in rows})
        return [
            GrantFacts(
                grant=CreditGrant(**{name: getattr(row, name) for name in credit_grants.c.keys()}),  # noqa: SIM118 - the names of columns
                drawn=row.drawn,
                refunded=refunded[row.reason],
                movement=movements.get(f"grant:{row.id}"),
            )
            for row in rows
        ]

    async def groups(self, *, limit: int, after: GroupFacts | None) -> Sequence[GroupFacts]:
        """Return the groups of the journal by their ids, whether they balance or not."""
        statement = pages.groups(limit=limit, after=after)
        heads = await self._rows(statement)
        entries = await self.movements([row.operation_id for row in heads])
        known = await self._known(_subject(row.operation_id) for row in heads)
        return [
            GroupFacts(
                id=row.id,
                operation_id=row.operation_id,
                tenant_id=row.tenant_id,
                entries=entries.get(row.operation_id, ()),
                has_subject=_subject(row.operation_id) in {None, *known},
            )
            for row in heads
        ]

    async def balances(self, *, limit: int, after: BalanceFacts | None) -> Sequence[BalanceFacts]:
        """Return the tenants' balances of receivable and customer credit, by tenant."""
        statement = pages.tenants(limit=limit, after=after)
        found = {
            row.tenant_id: BalanceFacts(tenant_id=row.tenant_id, journal=Counter(), standing=Counter())
            for row in await self._rows(statement)
        }
        for row in await self._rows(journal_sums(found)):
            found[row.tenant_id].journal[row.account, row.currency] += row.amount
        for account, standing in (("receivable", open_sums(found)), ("customer_credit", left_sums(found))):
            for row in await self._rows(standing):
                found[row.tenant_id].standing[account, row.currency] += row.amount
        return list(found.values())

    async def movements(self, operations: Sequence[str]) -> dict[str, tuple[JournalEntry, ...]]:
        """Return the entries of operations that are in the journal."""
        found: dict[str, list[JournalEntry]] = defaultdict(list)
        entry, group = journal_entries.c, journal_groups.c
        for some in _chunks(operations):
            statement = (
                select(group.operation_id, entry.account, entry.amount_minor, entry.currency)
                .join(journal_entries, entry.group_id == group.id)
                .where(group.operation_id.in_(some))
                .order_by(entry.group_id, entry.position)
            )
            for row in await self._rows(statement):
                side = JournalEntry(Account(row.account), row.amount_minor, row.currency)
                found[row.operation_id].append(side)
        return {name: tuple(entries) for name, entries in found.items()}

    async def _refunded(self, tenants: Iterable[UUID]) -> Counter[str]:
        """Return what refunds took from credit, by the reason for which that was granted."""
        taken: Counter[UUID] = Counter()
        for row in await self._rows(refunded_sums(tenants)):
            taken[_subject(row.operation_id) or NOBODY] += row.amount
        refunded: Counter[str] = Counter()
        for some in _chunks(sorted(taken)):
            for row in await self._rows(select(payment_refunds).where(payment_refunds.c.id.in_(some))):
                refunded[credit_source(row.attempt_id, row.credit_note_id)] += taken[row.id]
        return refunded

    async def _known(self, subjects: Iterable[UUID | None]) -> set[UUID]:
        """Return which of some things that money is moved about exist."""
        known = set()
        for some in _chunks(sorted({each for each in subjects if each is not None})):
            for table in TABLES:
                known |= {row.id for row in await self._rows(select(table.c.id).where(table.c.id.in_(some)))}
        return known

    async def _by_invoice(
        self, table: Table, ids: Sequence[UUID], *, order: str
    ) -> dict[UUID, list[Row[Any]]]:
        found: dict[UUID, list[Row[Any]]] = defaultdict(list)
        statement = (
            select(table).where(table.c.invoice_id.in_(ids)).order_by(table.c.invoice_id, table.c[order])
        )
        for row in await self._rows(statement):
            found[row.invoice_id].append(row)
        return found

    async def _rows(self, statement: Select[Any]) -> Sequence[Row[Any]]:
        async with self._database.read() as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
        return rows


def _subject(operation: str) -> UUID | None:
    """Return what an operation is about; None for one that other services wrote."""
    kind, _, rest = operation.partition(":")
    try:
        return UUID(rest.partition(":")[0]) if kind in SUBJECTS else None
    except ValueError:
        return None


def _chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Cut into parts that one statement takes."""
    return (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))
