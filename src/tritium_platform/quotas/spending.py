"""Spend caps: how much money a tenant's requests may come to in a calendar month, held under concurrency.

Before the work the most that it can cost is reserved, after it the cost is settled: reserved + used <= cap is
a constraint of the database. A tenant without a cap costs a look into memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from tritium_platform.errors import SpendCapReachedError
from tritium_platform.quotas.model import QuotaCounter, QuotaMeter, Reservation
from tritium_platform.quotas.spend_alerts import SpendAlerts
from tritium_platform.quotas.spend_cap import MICRO, NO_LIMIT, SHADOW, THRESHOLDS, SpendStatus
from tritium_platform.values import CalendarMonth, Money, uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from uuid import UUID

    from tritium_platform.quotas.reservations import ReservationStore
    from tritium_platform.quotas.spend_alerts import AuditTrail
    from tritium_platform.quotas.spend_cap import SpendCap, SpendStore
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock, UnitOfWork


class SpendService:
    """Holds tenants to their caps; what other processes change is known after `refresh`."""

    def __init__(
        self,
        *,
        store: SpendStore,
        reservations: ReservationStore,
        trail: AuditTrail,
        unit_of_work: UnitOfWork,
        clock: Clock,
        reservation_seconds: float,
    ) -> None:
        self._store = store
        self._reservations = reservations
        self._alerts = SpendAlerts(store=store, trail=trail, clock=clock)
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._lifetime = timedelta(seconds=reservation_seconds)
        self._caps: dict[UUID, SpendCap] = {}
        # A tenant's row is changed by one at a time: whoever waits here holds no connection that others need.
        self._turns: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    def is_capped(self, tenant_id: UUID) -> bool:
        """Tell whether a tenant has a cap."""
        return tenant_id in self._caps

    async def refresh(self) -> None:
        """Read the caps as any process has written them; run it every few seconds."""
        self._caps = {cap.tenant_id: cap for cap in await self._store.caps()}

    async def set_cap(self, cap: SpendCap, *, spent: int, actor: str) -> None:
        """Put a cap in force from now on; `spent` (millionths) is what the month came to without it.

        Alerts of an earlier cap that this one has not reached are forgotten, so that they are raised again.
        """
        period = str(CalendarMonth.of(self._clock.now()))
        async with self._unit_of_work():
            await self._store.put(cap)
            used = (await self._counter(cap, period=period)).used
            if used < spent:
                used = await self._count(cap.tenant_id, amount=spent - used, limit=NO_LIMIT, period=period)
            await self._alerts.note(
                "spend.cap", cap, amount=str(cap.amount_minor), mode=cap.mode.value, actor=actor
            )
            reached = await self._alerts.raise_reached(cap, used=used, period=period)
            ahead = [str(each) for each in THRESHOLDS if each not in reached]
            await self._store.unmark(cap.tenant_id, period=period, names=ahead)
        await self.refresh()

    async def remove_cap(self, tenant_id: UUID, *, actor: str) -> bool:
        """Take a cap away; False if there is none."""
        cap = {each.tenant_id: each for each in await self._store.caps()}.get(tenant_id)
        if cap is None:
            return False
        async with self._unit_of_work():
            await self._store.remove(tenant_id)
            await self._alerts.note(
                "spend.uncap", cap, amount=str(cap.amount_minor), mode=cap.mode.value, actor=actor
            )
        await self.refresh()
        return True

    async def status(self, tenant_id: UUID) -> SpendStatus | None:
        """Return a tenant's cap and what happened to it this month; None without a cap."""
        cap = {each.tenant_id: each for each in await self._store.caps()}.get(tenant_id)
        return None if cap is None else await self._status(cap)

    async def statuses(self) -> list[SpendStatus]:
        """Return all caps by tenant, and what happened to each this month."""
        return [await self._status(cap) for cap in await self._store.caps()]

    async def _status(self, cap: SpendCap) -> SpendStatus:
        period = str(CalendarMonth.of(self._clock.now()))
        marks = {mark.name: mark for mark in await self._store.marks(cap.tenant_id, period=period)}
        counter = await self._counter(cap, period=period)
        return SpendStatus(
            cap=cap,
            period=period,
            counter=QuotaCounter(cap.amount, counter.used, counter.held),
            alerts={each: marks[str(each)].created_at for each in THRESHOLDS if str(each) in marks},
            would_refuse=marks[SHADOW].count if SHADOW in marks else 0,
        )

    async def hold(self, context: TenantContext, *, amounts: Sequence[int]) -> list[Reservation]:
        """Reserve the most that requests can cost, of all or of none; nothing for a tenant without a cap.

        Raises:
            SpendCapReachedError: the cap does not leave that much; nothing stays reserved.
        """
        named = {uuid7(self._clock): amount for amount in amounts}
        async with self.holding(context, amounts=named, lifetime=self._lifetime) as held:
            return held

    @contextlib.asynccontextmanager
    async def holding(
        self, context: TenantContext, *, amounts: Mapping[UUID, int], lifetime: timedelta
    ) -> AsyncIterator[list[Reservation]]:
        """Reserve as `hold` does, under these ids, in one unit of work with what is written inside."""
        cap = self._caps.get(context.tenant_id)
        if cap is None:
            yield []
            return
        turn = self._turns.setdefault(cap.tenant_id, asyncio.Lock())
        try:
            async with turn, self._unit_of_work():
                yield await self._hold_all(cap, amounts=amounts, lifetime=lifetime)
        except SpendCapReachedError:
            async with self._unit_of_work():  # the one that was undone keeps no alert
                await self._alerts.alert(cap, threshold=100, period=str(CalendarMonth.of(self._clock.now())))
            raise

    async def _hold_all(
        self, cap: SpendCap, *, amounts: Mapping[UUID, int], lifetime: timedelta
    ) -> list[Reservation]:
        period = str(CalendarMonth.of(self._clock.now()))
        held: list[Reservation] = []
        is_beyond = False
        for identity, amount in amounts.items():
            reservation = self._reservation(
                cap.tenant_id, identity=identity, amount=amount, period=period, lifetime=lifetime
            )
            is_held, counter = await self._reservations.hold(reservation, limit=cap.limit)
            if not is_held:
                others = counter.held - sum(each.amount for each in held)
                raise self._reached(cap, counter=QuotaCounter(counter.limit, counter.used, others))
            held.append(reservation)
            is_beyond |= counter.used + counter.held > cap.amount
        if is_beyond:  # in shadow mode it runs all the same
            await self._alerts.mark(cap, SHADOW, period=period)
        return held

    async def settle(self, reservation: Reservation, *, amount: int) -> None:
        """Turn what was reserved into what it cost; call it in the unit of work that records the use.

        What costs more than could be known before is used as far as it fits under the cap; it is billed all
        the same.
        """
        tenant_id = reservation.tenant_id
        fitting = min(amount, reservation.amount)
        await self._reservations.settle(
            reservation.id, tenant_id=tenant_id, amount=fitting, at=self._clock.now()
        )
        cap = self._caps.get(tenant_id)
        if cap is None:
            return
        period = reservation.period
        if amount > fitting:
            used = await self._count(tenant_id, amount=amount - fitting, limit=cap.limit, period=period)
        else:
            used = (await self._counter(cap, period=period)).used
        await self._alerts.raise_reached(cap, used=used, period=period)

    async def count(self, tenant_id: UUID, *, amount: int, period: str) -> None:
        """Use what was spent already, beyond the cap too; call it in the unit of work that records the use.

        It cannot be refused any more: who spends beyond the cap is refused from the next request on.
        """
        cap = self._caps.get(tenant_id)
        if cap is not None:
            used = await self._count(tenant_id, amount=amount, limit=NO_LIMIT, period=period)
            await self._alerts.raise_reached(cap, used=used, period=period)

    async def void(self, reservation_id: UUID, *, tenant_id: UUID) -> None:
        """Give back what was reserved, if anything was: nothing was used."""
        await self._reservations.void(reservation_id, tenant_id=tenant_id, at=self._clock.now())

    async def _count(self, tenant_id: UUID, *, amount: int, limit: int, period: str) -> int:
        """Use what was not reserved, as far as it fits; return what is used then."""
        reservation = self._reservation(
            tenant_id, identity=uuid7(self._clock), amount=amount, period=period, lifetime=self._lifetime
        )
        is_used, counter = await self._reservations.hold(reservation.used_at_once(), limit=limit)
        if not is_used and counter.remaining > 0:
            rest = replace(reservation, amount=counter.remaining)
            _, counter = await self._reservations.hold(rest.used_at_once(), limit=limit)
        return counter.used

    async def _counter(self, cap: SpendCap, *, period: str) -> QuotaCounter:
        found = await self._reservations.counter(cap.tenant_id, meter=QuotaMeter.SPEND, period=period)
        return found or QuotaCounter(cap.limit)

    def _reservation(
        self, tenant_id: UUID, *, identity: UUID, amount: int, period: str, lifetime: timedelta
    ) -> Reservation:
        now = self._clock.now()
        return Reservation(
            id=identity,
            tenant_id=tenant_id,
            meter=QuotaMeter.SPEND,
            period=period,
            # More than any cap; what is held, used and asked for adds up to no more than 64 bits hold.
            amount=min(amount, NO_LIMIT - 1),
            created_at=now,
            expires_at=now + lifetime,
        )

    def _reached(self, cap: SpendCap, *, counter: QuotaCounter) -> SpendCapReachedError:
        now = self._clock.now()
        reset_time = CalendarMonth.of(now).end
        limit = cap.amount
        left = max(0, limit - counter.used - counter.held) // MICRO
        return SpendCapReachedError(
            limit=str(Money(cap.amount_minor, cap.currency)),
            remaining=str(Money(left, cap.currency)),
            reset_time=reset_time,
            retry_after=math.ceil((reset_time - now).total_seconds()),
        )
