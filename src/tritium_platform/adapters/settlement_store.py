"""Brings groups of settlements into the books of all rooms, together with the position of the spool."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from tritium_platform.insight.health import hour_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.audit.model import AuditIntent
    from tritium_platform.insight.health import OutcomeStore
    from tritium_platform.metering.service import UsageStore
    from tritium_platform.quotas.reservations import ReservationStore
    from tritium_platform.settlement import Settlement
    from tritium_platform.values import Clock, UnitOfWork

_log = structlog.get_logger(__name__)


class IntentStore(Protocol):
    """Keeps audit intents until the log has them."""

    async def add_all(self, intents: Sequence[AuditIntent]) -> None:
        """Keep several; those that are kept already change nothing."""


class SpoolPositions(Protocol):
    """Remembers how far each spool is in the books."""

    async def get(self, spool_id: UUID) -> int:
        """Return the position of a spool; 0 for an unknown one."""

    async def put(self, spool_id: UUID, *, position: int) -> None:
        """Remember a position."""

    async def remove(self, spool_id: UUID) -> None:
        """Forget a spool."""


@dataclass(frozen=True, kw_only=True)
class RoomStores:
    """The stores into which a settlement goes; `unit_of_work` opens a transaction over all of them."""

    unit_of_work: UnitOfWork
    usage: UsageStore
    reservations: ReservationStore
    intents: IntentStore
    outcomes: OutcomeStore
    positions: SpoolPositions
    clock: Clock


class GroupSettlement:
    """Applies settlements in groups: what one statement can do for a whole group, one statement does."""

    def __init__(self, stores: RoomStores) -> None:
        self._stores = stores

    async def position(self, spool_id: UUID) -> int:
        """Return up to where a spool is in the books."""
        return await self._stores.positions.get(spool_id)

    async def forget(self, spool_id: UUID) -> None:
        """Forget the position of a spool that is gone."""
        await self._stores.positions.remove(spool_id)

    async def apply(self, settlements: Sequence[Settlement], *, spool_id: UUID, position: int) -> None:
        """Bring settlements into the books unless they are there: the position is of the same transaction."""
        stores = self._stores
        async with stores.unit_of_work():
            if await stores.positions.get(spool_id) >= position:
                return
            await stores.positions.put(spool_id, position=position)
            await stores.usage.insert_all([each.record for each in settlements])
            await stores.intents.add_all([each.intent() for each in settlements])
            await self._end_reservations(settlements)
            await self._count_outcomes(settlements)

    async def _end_reservations(self, settlements: Sequence[Settlement]) -> None:
        now, store = self._stores.clock.now(), self._stores.reservations
        leased: Counter[tuple[UUID, UUID]] = Counter()
        for each in settlements:
            tenant_id = each.record.tenant_id
            if each.is_leased:
                leased[each.reservation_id, tenant_id] += each.requests
            elif each.requests:
                await store.settle(each.reservation_id, tenant_id=tenant_id, amount=each.requests, at=now)
            else:
                await store.void(each.reservation_id, tenant_id=tenant_id, at=now)
        for (lease_id, tenant_id), amount in sorted(
            leased.items()
        ):  # one order, so that nobody waits in a ring
            if amount and not await store.use(lease_id, tenant_id=tenant_id, amount=amount, at=now):
                _log.error("lease_overdrawn", lease_id=str(lease_id), amount=amount)

    async def _count_outcomes(self, settlements: Sequence[Settlement]) -> None:
        counts = Counter(
            (each.record.tenant_id, hour_of(each.record.occurred_at), each.kind, each.latency_bucket)
            for each in settlements
        )
        for (tenant_id, hour, kind, bucket), times in sorted(counts.items()):
            await self._stores.outcomes.count(
                tenant_id, hour=hour, kind=kind, latency_bucket=bucket, times=times
            )
