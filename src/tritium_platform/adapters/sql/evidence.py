"""Evidence read from the running database itself, past every service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import JSON, LargeBinary, MetaData, String, func, inspect, select

from tritium_platform.adapters.sql.tables.tenancy import api_keys
from tritium_platform.compliance.checks.api_keys import TextCell
from tritium_platform.compliance.checks.isolation import TENANT_COLUMN, TableFacts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy import Column, Connection

    from tritium_platform.adapters.sql.database import Database


class SqlCensus:
    """Counts and reads everything in the database; it believes the catalogue, not our source."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def stored_hashes(self) -> Sequence[tuple[str, bytes]]:
        """Return (key id, stored hash) of every API key, revoked ones included."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(api_keys.c.id, api_keys.c.secret_hash))
            return [(row.id, bytes(row.secret_hash)) for row in rows]

    async def text_cells(self) -> AsyncIterator[TextCell]:
        """Yield every text, JSON and binary value of every table."""
        async with self._database.read() as connection:
            found = await connection.run_sync(_reflect)
            for table in found.tables.values():
                for column in filter(_may_hold_text, table.columns):
                    async for value in await connection.stream_scalars(
                        select(column).where(column.is_not(None))
                    ):
                        yield TextCell(table.name, column.name, _as_text(value))

    async def tables(self) -> Sequence[TableFacts]:
        """Return every table of the database."""
        async with self._database.read() as connection:
            return await connection.run_sync(_describe)


def _reflect(connection: Connection) -> MetaData:
    found = MetaData()
    found.reflect(connection)
    return found


def _describe(connection: Connection) -> list[TableFacts]:
    inspector = inspect(connection)
    facts: list[TableFacts] = []
    for table in _reflect(connection).tables.values():
        column = table.columns.get(TENANT_COLUMN)
        without = 0
        if column is not None:
            missing = select(func.count()).select_from(table).where(column.is_(None))
            without = connection.execute(missing).scalar_one()
        parents = [key["referred_table"] for key in inspector.get_foreign_keys(table.name)]
        facts.append(
            TableFacts(
                name=table.name,
                has_tenant_column=column is not None,
                is_tenant_required=column is not None and not column.nullable,
                rows_without_tenant=without,
                parents=tuple(sorted(parents)),
            )
        )
    return facts


def _may_hold_text(column: Column[object]) -> bool:
    return isinstance(column.type, (String, JSON, LargeBinary))


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else json.dumps(value)
