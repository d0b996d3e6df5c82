"""Reads in SQL what health scores are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from tritium_platform.adapters.sql.exact_sum import ExactSum
from tritium_platform.adapters.sql.health_store import SqlOutcomeStore
from tritium_platform.adapters.sql.tables.invoices import invoices
from tritium_platform.adapters.sql.tables.journal import journal_entries, journal_groups
from tritium_platform.adapters.sql.tables.payments import payment_attempts, payment_disputes
from tritium_platform.adapters.sql.tables.quotas import quota_counters
from tritium_platform.billing.journal import Account
from tritium_platform.billing.payment import AttemptState
from tritium_platform.insight.facts import DECLINES_WINDOW, DISPUTES_WINDOW, MoneyFacts, Receivable
from tritium_platform.quotas.model import QuotaMeter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.insight.health import OutcomeCount

ENDS = ("void", "write_off")


class SqlFactsReader:
    """Reads what was recorded about a tenant; every end is exclusive."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._outcomes = SqlOutcomeStore(database)

    async def outcomes(self, tenant_id: UUID, *, start: datetime, end: datetime) -> Sequence[OutcomeCount]:
        """Return the sums of the outcomes in a period of full hours, by kind and latency."""
        return await self._outcomes.between(tenant_id, start=start, end=end)

    async def last_success(self, tenant_id: UUID, *, before: datetime) -> datetime | None:
        """Return the last hour with a success before a moment."""
        return await self._outcomes.last_success(tenant_id, before=before)

    async def request_ceiling(self, tenant_id: UUID, *, period: str) -> int | None:
        """Return the quota of requests of a month; None while nothing was reserved in it."""
        statement = select(quota_counters.c.ceiling).where(
            quota_counters.c.tenant_id == tenant_id,
            quota_counters.c.meter == QuotaMeter.REQUESTS.value,
            quota_counters.c.period == period,
        )
        async with self._database.read() as connection:
            found: int | None = (await connection.execute(statement)).scalar_one_or_none()
        return found

    async def money(self, tenant_id: UUID, *, before: datetime) -> MoneyFacts:
        """Return what was recorded about money before a moment."""
        async with self._database.read() as connection:
            owed = (await connection.execute(_owed(tenant_id, before=before))).all()
            declined = (await connection.execute(_declined(tenant_id, before=before))).scalar_one()
            disputed = (await connection.execute(_disputed(tenant_id, before=before))).scalar_one()
            receivables = await _receivables(connection, tenant_id, before=before)
        return MoneyFacts(
            owed={row.currency: row.amount for row in owed},
            receivables=receivables,
            declined_attempts=declined,
            disputes_opened=disputed,
        )


def _owed(tenant_id: UUID, *, before: datetime) -> Select[tuple[str, int]]:
    """Sum up the journal's receivable, by currency."""
    return (
        select(journal_entries.c.currency, ExactSum(journal_entries.c.amount_minor).label("amount"))
        .join(journal_groups, journal_groups.c.id == journal_entries.c.group_id)
        .where(
            journal_groups.c.tenant_id == tenant_id,
            journal_groups.c.occurred_at < before,
            journal_entries.c.account == Account.RECEIVABLE.value,
        )
        .group_by(journal_entries.c.currency)
    )


async def _receivables(
    connection: AsyncConnection, tenant_id: UUID, *, before: datetime
) -> tuple[Receivable, ...]:
    """Return what finalized invoices made a tenant owe, without those that were void or written off."""
    heads = select(invoices.c.id, invoices.c.due_at).where(
        invoices.c.tenant_id == tenant_id, invoices.c.due_at.is_not(None)
    )
    due = {str(row.id): row.due_at for row in await connection.execute(heads)}
    moved = (
        select(journal_groups.c.operation_id, journal_entries.c.currency, journal_entries.c.amount_minor)
        .join(journal_entries, journal_groups.c.id == journal_entries.c.group_id)
        .where(
            journal_groups.c.tenant_id == tenant_id,
            journal_groups.c.occurred_at < before,
            journal_entries.c.account == Account.RECEIVABLE.value,
        )
        .order_by(journal_groups.c.id)
    )
    rows = [(*row.operation_id.split(":", 1), row) for row in await connection.execute(moved)]
    ended = {invoice for kind, invoice, _ in rows if kind in ENDS}
    return tuple(
        Receivable(currency=row.currency, due_at=due[invoice], amount_minor=row.amount_minor)
        for kind, invoice, row in rows
        if kind == "finalize" and invoice in due and invoice not in ended and row.amount_minor > 0
    )


def _declined(tenant_id: UUID, *, before: datetime) -> Select[int]:
    table = payment_attempts.c
    return select(func.count()).where(
        table.tenant_id == tenant_id,
        table.state == AttemptState.FAILED.value,
        table.decline.is_not(None),
        table.changed_at >= before - DECLINES_WINDOW,
        table.changed_at < before,
    )


def _disputed(tenant_id: UUID, *, before: datetime) -> Select[int]:
    table = payment_disputes.c
    return select(func.count()).where(
        table.tenant_id == tenant_id,
        table.created_at >= before - DISPUTES_WINDOW,
        table.created_at < before,
    )
