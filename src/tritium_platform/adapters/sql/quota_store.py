"""Reservations in SQL: every step is one conditional UPDATE, so no two of them can overdraw."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, insert, select, update

from tritium_platform.adapters.sql.tables.quotas import quota_counters, reservations
from tritium_platform.quotas.model import QuotaCounter, QuotaMeter, Reservation, ReservationState
from tritium_platform.quotas.reservations import ended_if_used_up

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement, Row
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tritium_platform.adapters.sql.database import Database

_used, _held, _ceiling = quota_counters.c.used, quota_counters.c.held, quota_counters.c.ceiling


class SqlReservationStore:
    """Keeps counters and reservations; a CHECK constraint watches over held + used <= limit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def hold(self, reservation: Reservation, *, limit: int) -> tuple[bool, QuotaCounter]:
        """Set the amount aside if it fits, in one atomic step; return whether, and the counter afterwards."""
        here = _counter_of(reservation.tenant_id, meter=reservation.meter, period=reservation.period)
        used, held = reservation.used, reservation.amount - reservation.used
        take = (
            update(quota_counters)
            .where(here, _used + _held + reservation.amount <= limit)
            .values(used=_used + used, held=_held + held, ceiling=limit)
            .returning(_used, _held)
        )
        async with self._database.write() as connection:
            row = (await connection.execute(take)).one_or_none()
            if row is None:  # refused, or the first of its period
                await self._ensure_counter(connection, reservation=reservation, limit=limit)
                row = (await connection.execute(take)).one_or_none()
            if row is None:
                row = (await connection.execute(select(_used, _held).where(here))).one()
                return False, QuotaCounter(limit, row.used, row.held)
            await connection.execute(insert(reservations).values(**_values(reservation)))
        return True, QuotaCounter(limit, row.used, row.held)

    async def settle(self, reservation_id: UUID, *, tenant_id: UUID, amount: int, at: datetime) -> bool:
        """Turn a held reservation into `amount` used; an expired one as far as the amount still fits."""
        async with self._database.write() as connection:
            for state in (ReservationState.HELD, ReservationState.EXPIRED):
                ended = await self._end(
                    connection,
                    reservation_id,
                    tenant_id=tenant_id,
                    at=at,
                    state=(state, ReservationState.SETTLED),
                )
                if ended is not None:
                    held = ended.amount - ended.used if state is ReservationState.HELD else 0
                    used = max(ended.used, min(amount, ended.amount))
                    await self._keep(connection, replace(ended, used=used))
                    await self._use(connection, ended, held=held, amount=used - ended.used)
                    return True
        return False

    async def void(self, reservation_id: UUID, *, tenant_id: UUID, at: datetime) -> bool:
        """Give back a held reservation; False if it was not held."""
        states = (ReservationState.HELD, ReservationState.VOID)
        async with self._database.write() as connection:
            ended = await self._end(connection, reservation_id, tenant_id=tenant_id, at=at, state=states)
            if ended is not None:
                await self._use(connection, ended, held=ended.amount - ended.used, amount=0)
        return ended is not None

    async def use(self, reservation_id: UUID, *, tenant_id: UUID, amount: int, at: datetime) -> bool:
        """Use up a part of a held reservation; of an expired one as far as the part still fits."""
        async with self._database.write() as connection:
            found = await self._locked(connection, reservation_id, tenant_id=tenant_id)
            if found is None or found.state not in {ReservationState.HELD, ReservationState.EXPIRED}:
                return False
            if found.used + amount > found.amount:
                return False
            held = amount if found.state is ReservationState.HELD else 0
            used = replace(found, used=found.used + amount)
            await self._keep(connection, ended_if_used_up(used), at=at)
            await self._use(connection, found, held=held, amount=amount)
        return True

    async def shrink(self, reservation_id: UUID, *, tenant_id: UUID, amount: int, at: datetime) -> bool:
        """Give back all but `amount` of a held reservation, or all but what is used."""
        async with self._database.write() as connection:
            found = await self._locked(connection, reservation_id, tenant_id=tenant_id)
            if found is None or found.state is not ReservationState.HELD:
                return False
            kept = max(amount, found.used)
            if kept >= found.amount:
                return False
            await self._keep(connection, ended_if_used_up(replace(found, amount=kept)), at=at)
            await self._use(connection, found, held=found.amount - kept, amount=0)
        return True

    async def expire(self, *, at: datetime, limit: int) -> Sequence[Reservation]:
        """Give back up to `limit` held reservations whose time was over at `at`, and return them."""
        due = (
            select(reservations.c.id, reservations.c.tenant_id, reservations.c.meter, reservations.c.period)
            .where(reservations.c.state == ReservationState.HELD.value, reservations.c.expires_at <= at)
            .order_by(reservations.c.expires_at, reservations.c.id)
            .limit(limit)
        )
        states = (ReservationState.HELD, ReservationState.EXPIRED)
        expired = []
        async with self._database.write() as connection:
            # In the order of their counters, as all who change several: those who wait form no ring.
            for row in sorted(
                (await connection.execute(due)).all(),
                key=lambda each: (each.tenant_id, each.meter, each.period),
            ):
                ended = await self._end(connection, row.id, tenant_id=row.tenant_id, at=at, state=states)
                if ended is not None:
                    await self._use(connection, ended, held=ended.amount - ended.used, amount=0)
                    expired.append(ended)
        return expired

    async def release(self, tenant_id: UUID, *, meter: QuotaMeter, period: str, amount: int) -> int:
        """Take back up to `amount` of what is used; return how much."""
        here = _counter_of(tenant_id, meter=meter, period=period)
        async with self._database.write() as connection:
            used = await connection.scalar(select(_used).where(here).with_for_update())
            taken = min(amount, used or 0)
            await connection.execute(update(quota_counters).where(here).values(used=_used - taken))
        return taken

    async def counter(self, tenant_id: UUID, *, meter: QuotaMeter, period: str) -> QuotaCounter | None:
        """Return a counter, None if nothing was ever reserved."""
        here = _counter_of(tenant_id, meter=meter, period=period)
        async with self._database.read_books() as connection:
            row = (await connection.execute(select(_ceiling, _used, _held).where(here))).one_or_none()
        return QuotaCounter(row.ceiling, row.used, row.held) if row else None

    async def _ensure_counter(
        self, connection: AsyncConnection, *, reservation: Reservation, limit: int
    ) -> None:
        statement = self._database.insert(quota_counters).values(
            tenant_id=reservation.tenant_id,
            meter=reservation.meter.value,
            period=reservation.period,
            ceiling=limit,
            used=0,
            held=0,
        )
        await connection.execute(statement.on_conflict_do_nothing())

    async def _end(
        self,
        connection: AsyncConnection,
        reservation_id: UUID,
        *,
        tenant_id: UUID,
        at: datetime,
        state: tuple[ReservationState, ReservationState],
    ) -> Reservation | None:
        """Move a reservation from one state to another; None if it was not in the first."""
        statement = (
            update(reservations)
            .where(
                reservations.c.id == reservation_id,
                reservations.c.tenant_id == tenant_id,
                reservations.c.state == state[0].value,
            )
            .values(state=state[1].value, ended_at=at)
            .returning(*reservations.c)
        )
        row = (await connection.execute(statement)).one_or_none()
        return _reservation(row) if row else None

    async def _locked(
        self, connection: AsyncConnection, reservation_id: UUID, *, tenant_id: UUID
    ) -> Reservation | None:
        here = and_(reservations.c.id == reservation_id, reservations.c.tenant_id == tenant_id)
        row = (await connection.execute(select(reservations).where(here).with_for_update())).one_or_none()
        return _reservation(row) if row else None

    async def _keep(
        self, connection: AsyncConnection, reservation: Reservation, *, at: datetime | None = None
    ) -> None:
        values: dict[str, Any] = {
            "amount": reservation.amount,
            "used": reservation.used,
            "state": reservation.state.value,
        }
        if at is not None and reservation.state in {ReservationState.SETTLED, ReservationState.VOID}:
            values["ended_at"] = at
        here = reservations.c.id == reservation.id
        await connection.execute(update(reservations).where(here).values(values))

    async def _use(
        self, connection: AsyncConnection, reservation: Reservation, *, held: int, amount: int
    ) -> None:
        """Give back what is held and use as much of the amount as fits under the ceiling."""
        room = _ceiling - _used - (_held - held)
        fitting = case((room < amount, room), else_=amount)
        here = _counter_of(reservation.tenant_id, meter=reservation.meter, period=reservation.period)
        statement = update(quota_counters).where(here).values(held=_held - held, used=_used + fitting)
        await connection.execute(statement)


def _counter_of(tenant_id: UUID, *, meter: QuotaMeter, period: str) -> ColumnElement[bool]:
    return and_(
        quota_counters.c.tenant_id == tenant_id,
        quota_counters.c.meter == meter.value,
        quota_counters.c.period == period,
    )


def _values(reservation: Reservation) -> dict[str, Any]:
    return {
        "id": reservation.id,
        "tenant_id": reservation.tenant_id,
        "meter": reservation.meter.value,
        "period": reservation.period,
        "amount": reservation.amount,
        "used": reservation.used,
        "state": reservation.state.value,
        "created_at": reservation.created_at,
        "expires_at": reservation.expires_at,
        "ended_at": None if reservation.state is ReservationState.HELD else reservation.created_at,
    }


def _reservation(row: Row[Any]) -> Reservation:
    return Reservation(
        id=row.id,
        tenant_id=row.tenant_id,
        meter=QuotaMeter(row.meter),
        period=row.period,
        amount=row.amount,
        created_at=row.created_at,
        expires_at=row.expires_at,
        state=ReservationState(row.state),
        used=row.used,
    )
