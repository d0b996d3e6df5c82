"""Reservations in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from msgspec import structs

from tritium_platform.quotas.model import QuotaCounter, QuotaMeter, Reservation, ReservationState
from tritium_platform.quotas.reservations import ended_if_used_up

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase

Key = tuple["UUID", QuotaMeter, str]


class MemoryReservationStore:
    """Keeps counters and reservations such that held + used <= limit holds at every instant."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def hold(self, reservation: Reservation, *, limit: int) -> tuple[bool, QuotaCounter]:
        """Set the amount aside if it fits, in one atomic step; return whether, and the counter afterwards."""
        async with self._database.write():
            key = (reservation.tenant_id, reservation.meter, reservation.period)
            counter = structs.replace(self._counters.setdefault(key, QuotaCounter(limit)), limit=limit)
            if counter.remaining < reservation.amount:
                return False, counter
            held = reservation.amount - reservation.used
            counter = structs.replace(counter, used=counter.used + reservation.used, held=counter.held + held)
            self._counters[key] = counter
            self._reservations[reservation.id] = reservation
        return True, counter

    async def settle(
        self,
        reservation_id: UUID,
        *,
        tenant_id: UUID,
        amount: int,
        at: datetime,  # noqa: ARG002 - kept by the database only
    ) -> bool:
        """Turn a held reservation into `amount` used; an expired one as far as the amount still fits."""
        async with self._database.write():
            found = self._find(reservation_id, tenant_id=tenant_id)
            if found is None or found.state not in {ReservationState.HELD, ReservationState.EXPIRED}:
                return False
            held = found.amount - found.used if found.state is ReservationState.HELD else 0
            used = max(found.used, min(amount, found.amount))
            self._move(
                replace(found, state=ReservationState.SETTLED, used=used), held=held, amount=used - found.used
            )
        return True

    async def void(
        self,
        reservation_id: UUID,
        *,
        tenant_id: UUID,
        at: datetime,  # noqa: ARG002 - kept by the database only
    ) -> bool:
        """Give back a held reservation; False if it was not held."""
        async with self._database.write():
            found = self._find(reservation_id, tenant_id=tenant_id)
            if found is None or found.state is not ReservationState.HELD:
                return False
            self._move(replace(found, state=ReservationState.VOID), held=found.amount - found.used, amount=0)
        return True

    async def use(
        self,
        reservation_id: UUID,
        *,
        tenant_id: UUID,
        amount: int,
        at: datetime,  # noqa: ARG002 - kept by the database only
    ) -> bool:
        """Use up a part of a held reservation; of an expired one as far as the part still fits."""
        async with self._database.write():
            found = self._find(reservation_id, tenant_id=tenant_id)
            if found is None or found.state not in {ReservationState.HELD, ReservationState.EXPIRED}:
                return False
            if found.used + amount > found.amount:
                return False
            held = amount if found.state is ReservationState.HELD else 0
            self._move(ended_if_used_up(replace(found, used=found.used + amount)), held=held, amount=amount)
        return True

    async def shrink(
        self,
        reservation_id: UUID,
        *,
        tenant_id: UUID,
        amount: int,
        at: datetime,  # noqa: ARG002 - kept by the database only
    ) -> bool:
        """Give back all but `amount` of a held reservation, or all but what is used."""
        async with self._database.write():
            found = self._find(reservation_id, tenant_id=tenant_id)
            if found is None or found.state is not ReservationState.HELD:
                return False
            kept = max(amount, found.used)
            if kept >= found.amount:
                return False
            self._move(ended_if_used_up(replace(found, amount=kept)), held=found.amount - kept, amount=0)
        return True

    async def expire(self, *, at: datetime, limit: int) -> Sequence[Reservation]:
        """Give back up to `limit` held reservations whose time was over at `at`, and return them."""
        async with self._database.write():
            due = [
                each
                for each in self._reservations.values()
                if each.state is ReservationState.HELD and each.expires_at <= at
            ]
            due = sorted(due, key=lambda each: (each.expires_at, each.id))[:limit]
            for each in due:
                self._move(
                    replace(each, state=ReservationState.EXPIRED), held=each.amount - each.used, amount=0
                )
            return [self._reservations[each.id] for each in due]

    async def release(self, tenant_id: UUID, *, meter: QuotaMeter, period: str, amount: int) -> int:
        """Take back up to `amount` of what is used; return how much."""
        async with self._database.write():
            counter = self._counters.get((tenant_id, meter, period))
            if counter is None:
                return 0
            taken = min(amount, counter.used)
            self._counters[tenant_id, meter, period] = structs.replace(counter, used=counter.used - taken)
        return taken

    async def counter(self, tenant_id: UUID, *, meter: QuotaMeter, period: str) -> QuotaCounter | None:
        """Return a counter, None if nothing was ever reserved."""
        await self._database.read_books()
        return self._counters.get((tenant_id, meter, period))

    @property
    def _counters(self) -> dict[Key, QuotaCounter]:
        return self._database.tables["quota_counters"]

    @property
    def _reservations(self) -> dict[UUID, Reservation]:
        return self._database.tables["reservations"]

    def _find(self, reservation_id: UUID, *, tenant_id: UUID) -> Reservation | None:
        found = self._reservations.get(reservation_id)
        return found if found is not None and found.tenant_id == tenant_id else None

    def _move(self, reservation: Reservation, *, held: int, amount: int) -> None:
        """Keep a reservation, give back what is held, use as much of the amount as fits under the limit."""
        key = (reservation.tenant_id, reservation.meter, reservation.period)
        freed = structs.replace(self._counters[key], held=self._counters[key].held - held)
        self._counters[key] = structs.replace(freed, used=freed.used + min(amount, freed.remaining))
        self._reservations[reservation.id] = reservation
