"""The audit log's outbox in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import bindparam, select, update

from tritium_platform.adapters.sql.many_rows import insert_new
from tritium_platform.adapters.sql.tables.audit import audit_outbox
from tritium_platform.audit.model import intent_from_dict, intent_to_dict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.audit.model import AuditIntent


class SqlAuditOutbox:
    """Keeps intents in the transaction of the change they report, until the log has them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, intent: AuditIntent) -> None:
        """Keep an intent; adding the same one again changes nothing."""
        await self.add_all([intent])

    async def add_all(self, intents: Sequence[AuditIntent]) -> None:
        """Keep several; those that are kept already change nothing."""
        rows = [
            {
                "id": intent.id,
                "entry_json": msgspec.json.encode(intent_to_dict(intent)).decode(),
                "created_at": intent.occurred_at,
            }
            for intent in intents
        ]
        await insert_new(self._database, audit_outbox, rows, key=("id",))

    async def pending(self, *, limit: int) -> list[AuditIntent]:
        """Return the oldest intents without an index, at most `limit`."""
        statement = (
            select(audit_outbox.c.entry_json)
            .where(audit_outbox.c.log_index.is_(None))
            .order_by(audit_outbox.c.created_at, audit_outbox.c.id)
            .limit(limit)
        )
        async with self._database.read_books() as connection:
            rows = (await connection.execute(statement)).scalars().all()
        return [intent_from_dict(msgspec.json.decode(row)) for row in rows]

    async def mark(self, indices: Mapping[UUID, int]) -> None:
        """Record at which index of the log each intent stands; an unknown id is ignored."""
        if not indices:
            return
        statement = (
            update(audit_outbox)
            .where(audit_outbox.c.id == bindparam("intent_id"))
            .values(log_index=bindparam("index"))
        )
        rows = [{"intent_id": identity, "index": index} for identity, index in indices.items()]
        async with self._database.write() as connection:
            await connection.execute(statement, rows)
