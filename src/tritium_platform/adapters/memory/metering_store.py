"""Usage records in memory."""

from __future__ import annotations

from collections import Counter
from datetime import UTC
from typing import TYPE_CHECKING

from tritium_platform.metering.model import OperationType, TenantActivity, TokenCount, UsageTotal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.metering.model import Meter, UsageRecord
    from tritium_platform.tenancy.model import TenantTier

Key = tuple["UUID", str, str]


class MemoryUsageStore:
    """Keeps usage records; (tenant_id, source, event_id) is unique for ever."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def insert(self, record: UsageRecord) -> bytes | None:
        """Keep a record and return None; if its key is taken, return the kept body's digest instead."""
        async with self._database.write():
            key = (record.tenant_id, record.source, record.event_id)
            if key in self._records:
                return self._records[key].body_sha256()
            self._records[key] = record
        return None

    async def insert_all(self, records: Sequence[UsageRecord]) -> None:
        """Keep records, but for those whose key is taken."""
        async with self._database.write():
            for record in records:
                await self.insert(record)

    async def list(
        self, tenant_id: UUID, *, start: datetime, end: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[UsageRecord]:
        """Return a tenant's records with start <= occurred_at < end by their ids, those after `after`."""
        await self._database.read_books()
        found = [
            record
            for record in self._between(tenant_id, start=start, end=end)
            if after is None or record.id > after
        ]
        return sorted(found, key=lambda record: record.id)[:limit]

    async def totals(self, tenant_id: UUID, *, start: datetime, end: datetime) -> Sequence[UsageTotal]:
        """Return a tenant's non-zero sums per tier and meter with start <= occurred_at < end, sorted."""
        await self._database.read_books()
        sums: Counter[tuple[TenantTier, Meter]] = Counter()
        for record in self._between(tenant_id, start=start, end=end):
            for meter, quantity in record.metered().items():
                sums[record.tier, meter] += quantity
        return [UsageTotal(*key, quantity) for key, quantity in sorted(sums.items()) if quantity]

    async def activity(self, *, start: datetime, end: datetime) -> Sequence[TenantActivity]:
        """Return every tenant's uses of this service in a period, sorted by tenant; none without any."""
        requests: Counter[UUID] = Counter()
        compute: Counter[UUID] = Counter()
        for record in self._of_everybody(start=start, end=end):
            requests[record.tenant_id] += 1
            compute[record.tenant_id] += record.resources.compute_time_ms
        return [
            TenantActivity(tenant_id=tenant, requests=requests[tenant], compute_ms=compute[tenant])
            for tenant in sorted(requests)
        ]

    async def hourly_tokens(self, *, start: datetime, end: datetime) -> Sequence[TokenCount]:
        """Return the non-zero sums per tier, model and hour of uses of this service, sorted."""
        sums: Counter[tuple[TenantTier, str, datetime]] = Counter()
        compute: Counter[tuple[TenantTier, str, datetime]] = Counter()
        for record in self._of_everybody(start=start, end=end):
            used, moment = record.quantities, record.occurred_at.astimezone(UTC)
            hour = moment.replace(minute=0, second=0, microsecond=0)
            tokens = used.input_tokens + used.output_tokens + used.embedding_tokens
            sums[record.tier, record.model, hour] += tokens
            compute[record.tier, record.model, hour] += record.resources.compute_time_ms
        return [
            TokenCount(
                tier=tier, model=model, hour=hour, tokens=tokens, compute_ms=compute[tier, model, hour]
            )
            for (tier, model, hour), tokens in sorted(sums.items())
            if tokens
        ]

    @property
    def _records(self) -> dict[Key, UsageRecord]:
        return self._database.tables["usage_records"]

    def _between(self, tenant_id: UUID, *, start: datetime, end: datetime) -> Sequence[UsageRecord]:
        return [
            record
            for record in self._records.values()
            if record.tenant_id == tenant_id and start <= record.occurred_at < end
        ]

    def _of_everybody(self, *, start: datetime, end: datetime) -> Sequence[UsageRecord]:
        """Return what was done here in a period, as opposed to what others report."""
        return [
            record
            for record in self._records.values()
            if start <= record.occurred_at < end and record.operation is not OperationType.EXTERNAL
        ]
