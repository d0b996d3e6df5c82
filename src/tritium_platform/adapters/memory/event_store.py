"""Events in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from tritium_platform.adapters.memory.metering_store import MemoryUsageStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.metering.event import UsageEvent


class MemoryEventStore:
    """Keeps events as usage records; (tenant_id, source, id) is unique for ever."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._records = MemoryUsageStore(database)

    async def keep(self, events: Sequence[UsageEvent], *, identities: Sequence[bytes]) -> Mapping[int, bytes]:
        """Keep events with different keys; return the digests of taken keys by the places of their events."""
        taken: dict[int, bytes] = {}
        async with self._database.write():
            for place, (event, identity) in enumerate(zip(events, identities, strict=True)):
                digest = await self._records.insert(event.record(UUID(bytes=identity)))
                if digest is not None:
                    taken[place] = digest
        return taken
