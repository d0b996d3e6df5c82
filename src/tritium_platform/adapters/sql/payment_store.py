"""Payments in SQL: an invoice has at most one attempt that is not resolved, whoever tries."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from tritium_platform.adapters.sql.tables.payments import (
    dunning_notices,
    payment_attempts,
    payment_disputes,
    payment_methods,
    payment_refunds,
)
from tritium_platform.billing.dunning_notice import DunningNotice, NoticeKind
from tritium_platform.billing.payment import (
    UNRESOLVED,
    AttemptState,
    Decline,
    DisputeState,
    PaymentAttempt,
    PaymentDispute,
    PaymentMethod,
    PaymentRefund,
    RefundState,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row, Select, Table

    from tritium_platform.adapters.sql.database import Database

_attempt = payment_attempts.c
_refund = payment_refunds.c


class SqlPaymentStore:
    """Keeps attempts, refunds, disputes, and what tenants are charged with."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, attempt: PaymentAttempt) -> bool:
        """Keep a new attempt; False if the invoice has one that is not resolved, or one of that number."""
        statement = (
            self._database.insert(payment_attempts)
            .values(**_plain(attempt))
            .on_conflict_do_nothing()
            .returning(_attempt.id)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def lock(self, attempt_id: UUID) -> PaymentAttempt | None:
        """Return an attempt that nobody else changes until the unit of work ends."""
        statement = select(payment_attempts).where(_attempt.id == attempt_id).with_for_update()
        async with self._database.write() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else _attempt_of(row)

    async def save(self, attempt: PaymentAttempt) -> None:
        """Keep what changed of an attempt."""
        statement = update(payment_attempts).where(_attempt.id == attempt.id).values(**_plain(attempt))
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def get(self, attempt_id: UUID) -> PaymentAttempt | None:
        """Return an attempt."""
        found = await self._attempts(select(payment_attempts).where(_attempt.id == attempt_id))
        return found[0] if found else None

    async def find(self, provider: str, reference: str) -> PaymentAttempt | None:
        """Return the attempt that a provider knows by a reference."""
        found = await self._attempts(
            select(payment_attempts).where(_attempt.provider == provider, _attempt.reference == reference)
        )
        return found[0] if found else None

    async def of_invoice(self, invoice_id: UUID) -> Sequence[PaymentAttempt]:
        """Return the attempts of an invoice, oldest first."""
        return await self._attempts(
            select(payment_attempts).where(_attempt.invoice_id == invoice_id).order_by(_attempt.number)
        )

    async def list(
        self, *, tenant_id: UUID | None, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentAttempt]:
        """Return attempts of one tenant or of all, newest first, those older than `after`."""
        statement = select(payment_attempts).order_by(_attempt.id.desc()).limit(limit)
        if tenant_id is not None:
            statement = statement.where(_attempt.tenant_id == tenant_id)
        if after is not None:
            statement = statement.where(_attempt.id < after)
        return await self._attempts(statement)

    async def unresolved(
        self, *, before: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentAttempt]:
        """Return attempts that are not resolved and were made before a moment, by their ids."""
        statement = select(payment_attempts).where(
            _attempt.state.in_(sorted(UNRESOLVED)), _attempt.created_at < before
        )
        if after is not None:
            statement = statement.where(_attempt.id > after)
        return await self._attempts(statement.order_by(_attempt.id).limit(limit))

    async def add_refund(self, refund: PaymentRefund) -> None:
        """Keep a new refund."""
        async with self._database.write() as connection:
            await connection.execute(self._database.insert(payment_refunds).values(**_plain(refund)))

    async def save_refund(self, refund: PaymentRefund) -> None:
        """Keep what changed of a refund."""
        statement = update(payment_refunds).where(_refund.id == refund.id).values(**_plain(refund))
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def refunds(self, attempt_id: UUID) -> Sequence[PaymentRefund]:
        """Return the refunds of an attempt, oldest first."""
        return await self._refunds(
            select(payment_refunds).where(_refund.attempt_id == attempt_id).order_by(_refund.number)
        )

    async def unresolved_refunds(
        self, *, before: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentRefund]:
        """Return refunds of which it is not known yet what became of them, made before a moment."""
        waiting = [RefundState.CREATED.value, RefundState.UNKNOWN.value]
        statement = select(payment_refunds).where(_refund.state.in_(waiting), _refund.created_at < before)
        if after is not None:
            statement = statement.where(_refund.id > after)
        return await self._refunds(statement.order_by(_refund.id).limit(limit))

    async def save_dispute(self, dispute: PaymentDispute) -> None:
        """Keep a dispute, new or changed."""
        values = _plain(dispute)
        statement = (
            self._database.insert(payment_disputes)
            .values(**values)
            .on_conflict_do_update(index_elements=["id"], set_=values)
        )
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def disputes(self, attempt_id: UUID) -> Sequence[PaymentDispute]:
        """Return the disputes of an attempt, oldest first."""
        statement = (
            select(payment_disputes)
            .where(payment_disputes.c.attempt_id == attempt_id)
            .order_by(payment_disputes.c.id)
        )
        return await self._disputes(statement)

    async def attempts_between(
        self, *, start: datetime, end: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentAttempt]:
        """Return attempts that were made in a period, by their ids."""
        return await self._attempts(
            _between(payment_attempts, start=start, end=end, limit=limit, after=after)
        )

    async def refunds_between(
        self, *, start: datetime, end: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentRefund]:
        """Return refunds that were made in a period, by their ids."""
        return await self._refunds(_between(payment_refunds, start=start, end=end, limit=limit, after=after))

    async def disputes_between(
        self, *, start: datetime, end: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentDispute]:
        """Return disputes that were heard of in a period, by their ids."""
        return await self._disputes(
            _between(payment_disputes, start=start, end=end, limit=limit, after=after)
        )

    async def set_method(self, method: PaymentMethod) -> None:
        """Let a tenant be charged that way from now on."""
        values = asdict(method)
        statement = (
            self._database.insert(payment_methods)
            .values(**values)
            .on_conflict_do_update(index_elements=["tenant_id"], set_=values)
        )
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def method(self, tenant_id: UUID) -> PaymentMethod | None:
        """Return what a tenant is charged with; None: by bank transfer."""
        statement = select(payment_methods).where(payment_methods.c.tenant_id == tenant_id)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else PaymentMethod(**row._asdict())

    async def add_notice(self, notice: DunningNotice) -> bool:
        """Keep a notice to a customer; False if there is one of that invoice, attempt and kind."""
        statement = (
            self._database.insert(dunning_notices)
            .values(asdict(notice) | {"kind": notice.kind.value})
            .on_conflict_do_nothing()
            .returning(dunning_notices.c.id)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def notices(
        self, *, tenant_id: UUID | None, limit: int, after: UUID | None = None
    ) -> Sequence[DunningNotice]:
        """Return notices to one tenant or to all, oldest first, those newer than `after`."""
        table = dunning_notices.c
        statement = select(dunning_notices).order_by(table.id).limit(limit)
        if tenant_id is not None:
            statement = statement.where(table.tenant_id == tenant_id)
        if after is not None:
            statement = statement.where(table.id > after)
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()
        return [DunningNotice(**row._asdict() | {"kind": NoticeKind(row.kind)}) for row in rows]

    async def _attempts(self, statement: Select[Any]) -> Sequence[PaymentAttempt]:
        async with self._database.read() as connection:
            return [_attempt_of(row) for row in await connection.execute(statement)]

    async def _refunds(self, statement: Select[Any]) -> Sequence[PaymentRefund]:
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()
        return [PaymentRefund(**row._asdict() | {"state": RefundState(row.state)}) for row in rows]

    async def _disputes(self, statement: Select[Any]) -> Sequence[PaymentDispute]:
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()
        return [PaymentDispute(**row._asdict() | {"state": DisputeState(row.state)}) for row in rows]


def _between(table: Table, *, start: datetime, end: datetime, limit: int, after: UUID | None) -> Select[Any]:
    statement = select(table).where(table.c.created_at >= start, table.c.created_at < end)
    if after is not None:
        statement = statement.where(table.c.id > after)
    return statement.order_by(table.c.id).limit(limit)


def _plain(kept: PaymentAttempt | PaymentRefund | PaymentDispute) -> dict[str, Any]:
    """Return the columns of a row; names of states are plain text there."""
    fields = asdict(kept)
    return {
        name: str(value) if name in {"state", "decline"} and value is not None else value
        for name, value in fields.items()
    }


def _attempt_of(row: Row[Any]) -> PaymentAttempt:
    fields = row._asdict()
    fields |= {
        "state": AttemptState(row.state),
        "decline": None if row.decline is None else Decline(row.decline),
    }
    return PaymentAttempt(**fields)
