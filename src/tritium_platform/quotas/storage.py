"""The bytes that a tenant keeps here: set aside before they come, counted while they lie, freed after."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tritium_platform.errors import StorageQuotaExceededError
from tritium_platform.quotas.model import ALWAYS, QuotaCounter, QuotaMeter, Reservation, require_amount
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.quotas.reservations import ReservationStore
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

NO_LIMIT = 2**62
UPLOAD_TIME = timedelta(hours=24)


class StorageQuota:
    """Reserve bytes, then settle or void them; exact among all processes, for the store counts.

    Args:
        store: where reservations are kept.
        clock: the time.
        lifetime: how long bytes are held that are counted at once.
    """

    def __init__(self, *, store: ReservationStore, clock: Clock, lifetime: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._lifetime = lifetime

    async def reserve(
        self, context: TenantContext, *, size: int, lifetime: timedelta = UPLOAD_TIME
    ) -> Reservation:
        """Set aside `size` bytes of the tenant's storage.

        Raises:
            StorageQuotaExceededError: they do not fit.
        """
        require_amount("size", size)
        reservation = self._reservation(context.tenant_id, size=size, lifetime=lifetime)
        admitted, counter = await self._store.hold(reservation, limit=context.limits.max_storage)
        if not admitted:
            raise StorageQuotaExceededError(
                usage=counter.used + counter.held, quota=context.limits.max_storage, required=size
            )
        return reservation

    async def settle(self, reservation: Reservation, *, size: int) -> bool:
        """Turn a reservation into `size` bytes used; they must not be more than were set aside."""
        return await self._store.settle(
            reservation.id, tenant_id=reservation.tenant_id, amount=size, at=self._clock.now()
        )

    async def void(self, reservation: Reservation) -> bool:
        """Give a reservation back."""
        return await self._store.void(reservation.id, tenant_id=reservation.tenant_id, at=self._clock.now())

    async def count(self, tenant_id: UUID, *, size: int) -> None:
        """Count bytes that lie there already, even beyond the limit: what was paid for is not thrown away."""
        require_amount("size", size)
        reservation = self._reservation(tenant_id, size=size, lifetime=self._lifetime)
        await self._store.hold(reservation.used_at_once(), limit=NO_LIMIT)

    async def release(self, tenant_id: UUID, *, size: int) -> int:
        """Give back bytes of something that was deleted; return how many were in use at most."""
        return await self._store.release(
            tenant_id, meter=QuotaMeter.STORAGE_BYTES, period=ALWAYS, amount=size
        )

    async def usage(self, context: TenantContext) -> QuotaCounter:
        """Return how many bytes are used and held."""
        counter = await self._store.counter(context.tenant_id, meter=QuotaMeter.STORAGE_BYTES, period=ALWAYS)
        limit = context.limits.max_storage
        return QuotaCounter(limit, counter.used, counter.held) if counter else QuotaCounter(limit)

    def _reservation(self, tenant_id: UUID, *, size: int, lifetime: timedelta) -> Reservation:
        now = self._clock.now()
        return Reservation(
            id=uuid7(self._clock),
            tenant_id=tenant_id,
            meter=QuotaMeter.STORAGE_BYTES,
            period=ALWAYS,
            amount=size,
            created_at=now,
            expires_at=now + lifetime,
        )
