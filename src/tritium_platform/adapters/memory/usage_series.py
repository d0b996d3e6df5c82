"""Sums of a tenant's uses by time and by what, in memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC
from typing import TYPE_CHECKING

from tritium_platform.insight.analytics import Dimension, Step, UsagePoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.metering.model import Meter, UsageRecord

NAMES: Mapping[Dimension, Callable[[UsageRecord], str]] = {
    Dimension.MODEL: lambda record: record.model,
    Dimension.STATUS: lambda record: record.outcome,
    Dimension.OPERATION: lambda record: record.operation.value,
    Dimension.KEY: lambda record: record.key_id or "",
    Dimension.TIER: lambda record: record.tier.value,
    Dimension.DEVICE: lambda record: record.device,
}


class MemoryUsageSeries:
    """Sums up a tenant's uses with start <= occurred_at < end."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def series(
        self,
        tenant_id: UUID,
        *,
        start: datetime,
        end: datetime,
        step: Step,
        dimension: Dimension | None,
        limit: int,
        after: tuple[datetime, str] | None = None,
    ) -> Sequence[UsagePoint]:
        """Return what was used, if anything was, by time and name (bytewise), from behind `after` on."""
        groups: defaultdict[tuple[datetime, str], list[UsageRecord]] = defaultdict(list)
        for record in await self._records(tenant_id, start=start, end=end):
            moment = record.occurred_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            moment = moment if step is Step.HOUR else moment.replace(hour=0)
            groups[moment, "" if dimension is None else NAMES[dimension](record)].append(record)
        keys = sorted(groups, key=_bytewise)
        left = [key for key in keys if after is None or _bytewise(key) > _bytewise(after)]
        return [_point(groups[key], start=key[0], name=key[1]) for key in left[:limit]]

    async def top(
        self, tenant_id: UUID, *, start: datetime, end: datetime, dimension: Dimension, limit: int
    ) -> Sequence[UsagePoint]:
        """Return who or what had most uses in the period, most first; equals by name."""
        groups: defaultdict[str, list[UsageRecord]] = defaultdict(list)
        for record in await self._records(tenant_id, start=start, end=end):
            groups[NAMES[dimension](record)].append(record)
        names = sorted(groups, key=lambda name: (-len(groups[name]), name.encode()))[:limit]
        return [_point(groups[name], start=start, name=name) for name in names]

    async def _records(self, tenant_id: UUID, *, start: datetime, end: datetime) -> list[UsageRecord]:
        await self._database.read_books()
        kept: Sequence[UsageRecord] = list(self._database.tables["usage_records"].values())
        return [each for each in kept if each.tenant_id == tenant_id and start <= each.occurred_at < end]


def _bytewise(key: tuple[datetime, str]) -> tuple[datetime, bytes]:
    return key[0], key[1].encode()


def _point(records: Sequence[UsageRecord], *, start: datetime, name: str) -> UsagePoint:
    meters: Counter[Meter] = Counter()
    for record in records:
        meters.update({meter: count for meter, count in record.metered().items() if count})
    return UsagePoint(start=start, name=name, uses=len(records), meters=dict(meters))
