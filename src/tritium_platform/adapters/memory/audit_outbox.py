"""The audit log's outbox in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.audit.model import AuditIntent


class MemoryAuditOutbox:
    """Keeps intents in the transaction of the change they report, until the log has them."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, intent: AuditIntent) -> None:
        """Keep an intent; adding the same one again changes nothing."""
        async with self._database.write():
            self._rows.setdefault(intent.id, (intent, None))

    async def add_all(self, intents: Sequence[AuditIntent]) -> None:
        """Keep several; those that are kept already change nothing."""
        async with self._database.write():
            for intent in intents:
                await self.add(intent)

    async def pending(self, *, limit: int) -> list[AuditIntent]:
        """Return the oldest intents without an index, at most `limit`."""
        await self._database.read_books()
        found = [intent for intent, index in self._rows.values() if index is None]
        return sorted(found, key=lambda intent: (intent.occurred_at, intent.id))[:limit]

    async def mark(self, indices: Mapping[UUID, int]) -> None:
        """Record at which index of the log each intent stands; an unknown id is ignored."""
        async with self._database.write():
            for identity, index in indices.items():
                if identity in self._rows:
                    self._rows[identity] = (self._rows[identity][0], index)

    @property
    def _rows(self) -> dict[UUID, tuple[AuditIntent, int | None]]:
        return self._database.tables["audit_outbox"]
