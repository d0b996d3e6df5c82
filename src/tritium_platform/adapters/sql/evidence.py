"""Evidence read from the running database itself, past every service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import JSON, LargeBinary, String, Uuid, column, func, inspect, select, table, text

from tritium_platform.adapters.sql.tables.tenancy import api_keys
from tritium_platform.compliance.checks.api_keys import TextCell
from tritium_platform.compliance.checks.isolation import TENANT_COLUMN, TableFacts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from sqlalchemy import Connection
    from sqlalchemy.engine.interfaces import ReflectedColumn

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
            for name, columns in (await connection.run_sync(_columns)).items():
                for found in filter(_may_hold_text, columns):
                    cell = column(found["name"], found["type"])
                    texts = select(cell).select_from(table(name, cell)).where(cell.is_not(None))
                    async for value in await connection.stream_scalars(texts):
                        yield TextCell(name, found["name"], _as_text(value))

    async def tables(self) -> Sequence[TableFacts]:
        """Return every table of the database."""
        async with self._database.read() as connection:
            return await connection.run_sync(_describe)


def _columns(connection: Connection) -> Mapping[str, Sequence[ReflectedColumn]]:
    """Return the columns of every table; to read indexes and checks, too, takes ten times as long."""
    return {name: columns for (_, name), columns in inspect(connection).get_multi_columns().items()}


def _secured(connection: Connection) -> Mapping[str, bool]:
    """Return for every table whether a policy binds the current role; empty on SQLite, which has none."""
    if connection.dialect.name != "postgresql":
        return {}
    # An owner's right to pass would return as soon as FORCE is gone; a superuser is never bound.
    statement = text(
        "SELECT relname, row_security_active(pg_class.oid) AND relforcerowsecurity "
        "AND EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid) AS is_secured "
        "FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace"
    )
    return {row.relname: row.is_secured for row in connection.execute(statement)}


def _describe(connection: Connection) -> list[TableFacts]:
    secured = _secured(connection)
    parents = {name: keys for (_, name), keys in inspect(connection).get_multi_foreign_keys().items()}
    facts: list[TableFacts] = []
    for name, columns in _columns(connection).items():
        required = {found["name"]: not found["nullable"] for found in columns}
        without = 0
        if TENANT_COLUMN in required:
            tenant = column(TENANT_COLUMN, Uuid())
            missing = select(func.count()).select_from(table(name, tenant)).where(tenant.is_(None))
            without = connection.execute(missing).scalar_one()
        facts.append(
            TableFacts(
                name=name,
                has_tenant_column=TENANT_COLUMN in required,
                is_tenant_required=required.get(TENANT_COLUMN, False),
                rows_without_tenant=without,
                parents=tuple(sorted(key["referred_table"] for key in parents[name])),
                is_row_secured=secured.get(name),
            )
        )
    return facts


def _may_hold_text(found: ReflectedColumn) -> bool:
    return isinstance(found["type"], (String, JSON, LargeBinary))


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else json.dumps(value)
