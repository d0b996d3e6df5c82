"""Security events in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.security.model import SecurityEvent


class MemorySecurityEventStore:
    """Keeps security events."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, event: SecurityEvent) -> None:
        """Keep an event; adding the same one again changes nothing."""
        async with self._database.write():
            self._events.setdefault(event.id, event)

    async def related(self, event: SecurityEvent, *, since: datetime, limit: int) -> Sequence[SecurityEvent]:
        """Return events of the same type since then that share address, key or tenant; newest first."""
        since_then = [other for other in self._newest_first() if other.timestamp >= since]
        same = [other for other in since_then if other.event_type is event.event_type]
        return [other for other in same if _subjects(other) & _subjects(event)][:limit]

    async def recent(self, *, limit: int) -> Sequence[SecurityEvent]:
        """Return the newest events of all types, newest first."""
        return self._newest_first()[:limit]

    async def remove_before(self, moment: datetime) -> int:
        """Forget what is older; return how many."""
        async with self._database.write():
            old = [event.id for event in self._events.values() if event.timestamp < moment]
            for identity in old:
                del self._events[identity]
        return len(old)

    def _newest_first(self) -> list[SecurityEvent]:
        return sorted(self._events.values(), key=lambda each: (each.timestamp, each.id), reverse=True)

    @property
    def _events(self) -> dict[UUID, SecurityEvent]:
        return self._database.tables["security_events"]


def _subjects(event: SecurityEvent) -> set[tuple[str, object]]:
    named = {"address": event.source_ip, "key": event.key_id, "tenant": event.tenant_id}
    return {(name, value) for name, value in named.items() if value is not None}
