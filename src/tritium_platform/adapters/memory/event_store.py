"""Events in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.adapters.memory.metering_store import MemoryUsageStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.metering.event import EventKey, UsageEvent


class MemoryEventStore:
    """Keeps events as usage records; (tenant_id, source, id) is unique for ever."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._records = MemoryUsageStore(database)

    async def keep(
        self, events: Sequence[UsageEvent], *, identities: Sequence[UUID], received_at: datetime
    ) -> Mapping[EventKey, bytes]:
        """Keep events with different keys; return the digests of the keys that were taken before."""
        taken: dict[EventKey, bytes] = {}
        async with self._database.write():
            for event, identity in zip(events, identities, strict=True):
                digest = await self._records.insert(event.record(identity, received_at=received_at))
                if digest is not None:
                    taken[event.key] = digest
        return taken
