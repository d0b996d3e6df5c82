"""Leases of the month's quota: many requests reserved at once, given out one by one in memory.

A lease is a reservation, so held + used <= limit stays the store's promise, whoever else reserves. It is a
fiftieth of what remains and never touches the last fiftieth of the limit: near the end requests are reserved
one by one, so that no process holds what another could use.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from tritium_platform.quotas.model import QuotaCounter, QuotaMeter, Reservation
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.quotas.reservations import ReservationStore
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

SHARE = 50
# A lease for fewer requests costs more than it saves.
SMALLEST = 4
LONGEST_SECONDS = 60.0
NANOSECONDS = 1_000_000_000


@dataclass(slots=True, eq=False)
class QuotaLease:
    """Requests that this process may admit.

    Attributes:
        reservation: holds all of them.
        limit: the quota under which it was made.
        beside: what remained of the month beside it.
        fresh_until: monotonic nanoseconds; nothing is taken from it later.
        left: requests that nobody has taken.
    """

    reservation: Reservation
    limit: int
    beside: int
    fresh_until: int
    left: int

    @property
    def month(self) -> QuotaCounter:
        """What the tenant's month looks like from here."""
        return QuotaCounter(self.limit, held=self.limit - self.beside - self.left)


class QuotaLeases:
    """The leases of one process; at most one per tenant gives out requests.

    Args:
        store: where reservations are kept.
        clock: the time.
        reservation_seconds: how long a request may run on what was reserved for it.
    """

    def __init__(self, *, store: ReservationStore, clock: Clock, reservation_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._seconds = min(LONGEST_SECONDS, reservation_seconds)
        self._lifetime = timedelta(seconds=self._seconds + reservation_seconds)
        self._current: dict[UUID, QuotaLease] = {}
        self._ended: list[QuotaLease] = []
        self._renewing: dict[UUID, asyncio.Lock] = {}

    def take(self, context: TenantContext, *, count: int, now: int) -> QuotaLease | None:
        """Take requests from the tenant's lease at a moment; None if it has none that could give them."""
        lease = self._current.get(context.tenant_id)
        if lease is None or lease.left < count or now >= lease.fresh_until:
            return None
        if lease.limit != context.limits.monthly_quota:
            return None
        lease.left -= count
        return lease

    async def take_from_new(self, context: TenantContext, *, count: int) -> QuotaLease | None:
        """Make a lease and take requests from it; None where requests have to be reserved one by one."""
        if context.limits.monthly_quota < SHARE * SMALLEST:
            return None
        lock = self._renewing.setdefault(context.tenant_id, asyncio.Lock())
        try:
            async with lock:
                now = self._clock.monotonic_nanoseconds()
                taken = self.take(context, count=count, now=now)  # another may have made one meanwhile
                if taken is not None:
                    return taken
                self.end(context.tenant_id)
                lease = await self._make(context, count=count)
                if lease is not None:
                    self.end(context.tenant_id)  # whoever was first behind a lock of its own: none is lost
                    lease.left -= count
                    self._current[context.tenant_id] = lease
                return lease
        finally:
            if not lock.locked():
                self._renewing.pop(context.tenant_id, None)

    def put_back(self, lease: QuotaLease) -> None:
        """Give back a request that does not count."""
        lease.left += 1
        if self._current.get(lease.reservation.tenant_id) is not lease and lease not in self._ended:
            self._ended.append(lease)

    def unused(self, tenant_id: UUID, *, period: str) -> int:
        """Return how many requests of a month lie in leases and are taken by nobody."""
        mine = [*self._ended, *filter(None, [self._current.get(tenant_id)])]
        return sum(
            lease.left
            for lease in mine
            if (lease.reservation.tenant_id, lease.reservation.period) == (tenant_id, period)
        )

    def end(self, tenant_id: UUID) -> None:
        """Give out no more of a tenant's lease."""
        lease = self._current.pop(tenant_id, None)
        if lease is not None:
            self._ended.append(lease)

    async def give_back(self) -> None:
        """Give back what is left of leases that give out nothing more; run it every few seconds."""
        now = self._clock.monotonic_nanoseconds()
        for tenant_id, lease in list(self._current.items()):
            if now >= lease.fresh_until:
                self.end(tenant_id)
        while self._ended:
            lease = self._ended[-1]
            reservation, left = lease.reservation, lease.left
            # A request may be put back meanwhile; then there is more to give back, at the next turn.
            await self._store.shrink(
                reservation.id,
                tenant_id=reservation.tenant_id,
                amount=reservation.amount - left,
                at=self._clock.now(),
            )
            if lease.left == left and lease in self._ended:  # another may give back at the same time
                self._ended.remove(lease)

    async def close(self) -> None:
        """Give back everything that is left."""
        for tenant_id in list(self._current):
            self.end(tenant_id)
        await self.give_back()

    async def _make(self, context: TenantContext, *, count: int) -> QuotaLease | None:
        limit, now = context.limits.monthly_quota, self._clock.now()
        month = CalendarMonth.of(now)
        seconds = min(self._seconds, (month.end - now).total_seconds())  # the next month has another counter
        fresh_until = self._clock.monotonic_nanoseconds() + int(seconds * NANOSECONDS)
        period = str(month)
        kept = await self._store.counter(context.tenant_id, meter=QuotaMeter.REQUESTS, period=period)
        remaining = limit - kept.used - kept.held if kept else limit
        amount = lease_size(remaining=remaining, limit=limit)
        if amount < max(SMALLEST, count):
            return None
        reservation = Reservation(
            id=uuid7(self._clock),
            tenant_id=context.tenant_id,
            meter=QuotaMeter.REQUESTS,
            period=period,
            amount=amount,
            created_at=now,
            expires_at=now + self._lifetime,
        )
        is_held, counter = await self._store.hold(reservation, limit=limit)
        if not is_held:
            return None
        return QuotaLease(reservation, limit, counter.remaining, fresh_until, amount)


def lease_size(*, remaining: int, limit: int) -> int:
    """Return how many requests a lease may hold: a fiftieth of what remains, none of the last fiftieth."""
    last = -(-limit // SHARE)
    return max(0, min(remaining // SHARE, remaining - last))
