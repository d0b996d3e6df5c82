"""Which audit log a database has: the first that is opened over it, until an operator says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from tritium_platform.adapters.sql.tables.audit import audit_owner

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.audit.identity import LogIdentity
    from tritium_platform.values import Clock

_ONLY = 1


class SqlAuditOwner:
    """The one row that names the log; who comes first is decided by its primary key."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def bind(self, log: LogIdentity) -> LogIdentity:
        """Give the database to a log if it has none; return the log that has it."""
        statement = self._database.insert(audit_owner).values(self._row(log)).on_conflict_do_nothing()
        async with self._database.write() as connection:
            await connection.execute(statement)
            found = (await connection.execute(select(audit_owner))).one()
        return type(log)(found.log_id, found.directory)

    async def replace(self, log: LogIdentity) -> None:
        """Give the database to a log, whichever had it before."""
        row = self._row(log)
        statement = self._database.insert(audit_owner).values(row)
        async with self._database.write() as connection:
            await connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))

    def _row(self, log: LogIdentity) -> dict[str, int | str | UUID | object]:
        return {"id": _ONLY, "log_id": log.id, "directory": log.directory, "bound_at": self._clock.now()}
