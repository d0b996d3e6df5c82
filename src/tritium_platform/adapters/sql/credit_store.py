"""Prepaid credit in SQL: a check keeps what is left between zero and what was granted."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from tritium_platform.adapters.sql.tables.invoices import credit_draws, credit_grants
from tritium_platform.billing.invoice import CreditGrant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.billing.invoice import Invoice

_table = credit_grants.c


class SqlCreditStore:
    """Keeps prepaid credit; what is left of a grant is never below zero."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, grant: CreditGrant) -> None:
        """Keep a grant."""
        async with self._database.write() as connection:
            await connection.execute(self._database.insert(credit_grants).values(**asdict(grant)))

    async def list(
        self, tenant_id: UUID, *, limit: int | None = None, after: UUID | None = None
    ) -> Sequence[CreditGrant]:
        """Return a tenant's grants, oldest first, those after `after`; no limit: all."""
        statement = (
            select(credit_grants).where(_table.tenant_id == tenant_id).order_by(_table.id).limit(limit)
        )
        if after is not None:
            statement = statement.where(_table.id > after)
        async with self._database.read() as connection:
            return [CreditGrant(**row._asdict()) for row in await connection.execute(statement)]

    async def lock(self, tenant_id: UUID, *, currency: str) -> Sequence[CreditGrant]:
        """Return a tenant's grants of a currency with something left, until the unit of work ends."""
        statement = (
            select(credit_grants)
            .where(_table.tenant_id == tenant_id, _table.currency == currency, _table.remaining_minor > 0)
            .order_by(_table.id)
            .with_for_update()
        )
        async with self._database.write() as connection:
            return [CreditGrant(**row._asdict()) for row in await connection.execute(statement)]

    async def draw(self, invoice: Invoice, draws: Sequence[tuple[UUID, int]]) -> None:
        """Take amounts from grants for an invoice."""
        async with self._database.write() as connection:
            for grant_id, amount in draws:
                await connection.execute(
                    update(credit_grants)
                    .where(_table.id == grant_id)
                    .values(remaining_minor=_table.remaining_minor - amount)
                )
                await connection.execute(
                    self._database.insert(credit_draws).values(
                        invoice_id=invoice.id,
                        grant_id=grant_id,
                        tenant_id=invoice.tenant_id,
                        amount_minor=amount,
                    )
                )

    async def draws(self, invoice_id: UUID) -> Sequence[tuple[UUID, int]]:
        """Return what grants paid of an invoice."""
        statement = (
            select(credit_draws.c.grant_id, credit_draws.c.amount_minor)
            .where(credit_draws.c.invoice_id == invoice_id)
            .order_by(credit_draws.c.grant_id)
        )
        async with self._database.read() as connection:
            return [(row.grant_id, row.amount_minor) for row in await connection.execute(statement)]

    async def take(self, grant_id: UUID, amount_minor: int) -> None:
        """Take an amount from a grant that is paid out in money."""
        await self.give_back(grant_id, -amount_minor)

    async def give_back(self, grant_id: UUID, amount_minor: int) -> None:
        """Put an amount back that a void invoice had drawn."""
        statement = (
            update(credit_grants)
            .where(_table.id == grant_id)
            .values(remaining_minor=_table.remaining_minor + amount_minor)
        )
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def expire(self, *, at: datetime, limit: int) -> Sequence[CreditGrant]:
        """Take what is left from grants that expired, and return them as they were before."""
        expired = (
            select(credit_grants)
            .where(_table.expires_at <= at, _table.remaining_minor > 0)
            .order_by(_table.id)
            .limit(limit)
            .with_for_update()
        )
        async with self._database.write() as connection:
            grants = [CreditGrant(**row._asdict()) for row in await connection.execute(expired)]
            await connection.execute(
                update(credit_grants)
                .where(_table.id.in_([grant.id for grant in grants]))
                .values(remaining_minor=0)
            )
        return grants
