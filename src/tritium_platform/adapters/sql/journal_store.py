"""The journal in SQL: entries first, then the group that the database takes only if they balance."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from sqlalchemy import or_, select

from tritium_platform.adapters.sql.tables.journal import journal_entries, journal_groups
from tritium_platform.billing.journal import Account, JournalEntry, JournalGroup
from tritium_platform.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.adapters.sql.database import Database


class SqlJournalStore:
    """Keeps the journal: groups that sum to zero, one per operation, never changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def post(self, group: JournalGroup) -> None:
        """Keep a group; ConflictError if its operation was posted before."""
        rows = [
            {
                "group_id": group.id,
                "position": position,
                "account": entry.account.value,
                "amount_minor": entry.amount_minor,
                "currency": entry.currency,
            }
            for position, entry in enumerate(group.entries)
        ]
        head = (
            self._database.insert(journal_groups)
            .values(
                id=group.id,
                operation_id=group.operation_id,
                tenant_id=group.tenant_id,
                description=group.description,
                occurred_at=group.occurred_at,
            )
            .on_conflict_do_nothing(index_elements=["operation_id"])
            .returning(journal_groups.c.id)
        )
        async with self._database.write() as connection:
            await connection.execute(self._database.insert(journal_entries), rows)
            if (await connection.execute(head)).one_or_none() is None:
                raise ConflictError("This operation is in the journal already.", field="operation_id")

    async def list(self, *, limit: int, after: UUID | None = None) -> Sequence[JournalGroup]:
        """Return groups in the order of their ids, those after `after`."""
        heads = select(journal_groups).order_by(journal_groups.c.id).limit(limit)
        if after is not None:
            heads = heads.where(journal_groups.c.id > after)
        async with self._database.read() as connection:
            groups = (await connection.execute(heads)).all()
            sides = (
                select(journal_entries)
                .where(journal_entries.c.group_id.in_([group.id for group in groups]))
                .order_by(journal_entries.c.group_id, journal_entries.c.position)
            )
            entries: dict[UUID, list[JournalEntry]] = defaultdict(list)
            for row in await connection.execute(sides):
                entries[row.group_id].append(
                    JournalEntry(Account(row.account), row.amount_minor, row.currency)
                )
        return [
            JournalGroup(
                id=group.id,
                operation_id=group.operation_id,
                tenant_id=group.tenant_id,
                description=group.description,
                occurred_at=group.occurred_at,
                entries=tuple(entries[group.id]),
            )
            for group in groups
        ]

    async def entries_about(self, operation: str, *, tenant_id: UUID) -> Sequence[JournalEntry]:
        """Return a tenant's entries of an operation and of its parts, whose ids go on with `:`."""
        group = journal_groups.c
        statement = (
            select(journal_entries)
            .join(journal_groups, group.id == journal_entries.c.group_id)
            .where(
                group.tenant_id == tenant_id,
                or_(
                    group.operation_id == operation,
                    group.operation_id.startswith(f"{operation}:", autoescape=True),
                ),
            )
            .order_by(journal_entries.c.group_id, journal_entries.c.position)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()
        return [JournalEntry(Account(row.account), row.amount_minor, row.currency) for row in rows]
