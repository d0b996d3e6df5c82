"""Aliases of tenants in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from tritium_platform.adapters.sql.tables.serving import aliases
from tritium_platform.serving.model import Alias

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.adapters.sql.database import Database


class SqlAliasStore:
    """Remembers aliases; a tenant has one alias of a name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, alias: Alias) -> None:
        """Keep an alias in the place of the one with its name, if there is one."""
        statement = self._database.insert(aliases).values(
            tenant_id=alias.tenant_id, name=alias.name, target=alias.target, changed_at=alias.changed_at
        )
        statement = statement.on_conflict_do_update(
            index_elements=[aliases.c.tenant_id, aliases.c.name],
            set_={"target": alias.target, "changed_at": alias.changed_at},
        )
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def list(self, tenant_id: UUID | None = None) -> Sequence[Alias]:
        """Return the aliases of a tenant, or of everybody, by name."""
        statement = select(aliases)
        if tenant_id is not None:
            statement = statement.where(aliases.c.tenant_id == tenant_id)
        async with self._database.read() as connection:
            rows = await connection.execute(statement)
        found = [
            Alias(tenant_id=row.tenant_id, name=row.name, target=row.target, changed_at=row.changed_at)
            for row in rows
        ]
        # Here, because databases disagree about what comes first: the order must be one.
        return sorted(found, key=lambda alias: (alias.name, alias.tenant_id))

    async def remove(self, *, tenant_id: UUID, name: str) -> bool:
        """Forget an alias; False if the tenant has none of this name."""
        statement = delete(aliases).where(aliases.c.tenant_id == tenant_id, aliases.c.name == name)
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount == 1
