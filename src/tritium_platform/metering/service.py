"""Counts each use exactly once, for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tritium_platform.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.metering.model import TenantActivity, TokenCount, UsageRecord, UsageTotal


class UsageStore(Protocol):
    """Keeps usage records; (tenant_id, source, event_id) is unique for ever."""

    async def insert(self, record: UsageRecord) -> bytes | None:
        """Keep a record and return None; if its key is taken, return the kept body's digest instead."""

    async def insert_all(self, records: Sequence[UsageRecord]) -> None:
        """Keep records, but for those whose key is taken."""

    async def list(
        self, tenant_id: UUID, *, start: datetime, end: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[UsageRecord]:
        """Return a tenant's records with start <= occurred_at < end by their ids, those after `after`."""

    async def totals(self, tenant_id: UUID, *, start: datetime, end: datetime) -> Sequence[UsageTotal]:
        """Return a tenant's non-zero sums per tier and meter with start <= occurred_at < end, sorted."""

    async def activity(self, *, start: datetime, end: datetime) -> Sequence[TenantActivity]:
        """Return every tenant's uses of this service in a period, sorted by tenant; none without any."""

    async def hourly_tokens(self, *, start: datetime, end: datetime) -> Sequence[TokenCount]:
        """Return the non-zero sums per tier, model and hour of uses of this service, sorted."""


class MeteringService:
    """Records and sums up usage."""

    def __init__(self, *, store: UsageStore) -> None:
        self._store = store

    async def record(self, record: UsageRecord) -> bool:
        """Record a use; False if exactly this was recorded before.

        Raises:
            ConflictError: another use was recorded under the same tenant, source and event id.
        """
        kept = await self._store.insert(record)
        if kept is None:
            return True
        if kept != record.body_sha256():
            raise ConflictError(
                "A different use was already recorded under this source and event id.",
                source=record.source,
                event_id=record.event_id,
            )
        return False

    async def record_first(self, record: UsageRecord) -> bool:
        """Record a use of what may run twice; False if any use was recorded under its event id before."""
        return await self._store.insert(record) is None

    async def list(
        self, tenant_id: UUID, *, start: datetime, end: datetime, limit: int = 100, after: UUID | None = None
    ) -> Sequence[UsageRecord]:
        """Return a page of a tenant's records with start <= occurred_at < end, oldest first."""
        return await self._store.list(tenant_id, start=start, end=end, limit=limit, after=after)

    async def totals(self, tenant_id: UUID, *, start: datetime, end: datetime) -> Sequence[UsageTotal]:
        """Return a tenant's sums per tier and meter with start <= occurred_at < end."""
        return await self._store.totals(tenant_id, start=start, end=end)

    async def activity(self, *, start: datetime, end: datetime) -> Sequence[TenantActivity]:
        """Return every tenant's uses of this service with start <= occurred_at < end."""
        return await self._store.activity(start=start, end=end)

    async def hourly_tokens(self, *, start: datetime, end: datetime) -> Sequence[TokenCount]:
        """Return tokens per tier, model and hour of uses of this service with start <= occurred_at < end."""
        return await self._store.hourly_tokens(start=start, end=end)
