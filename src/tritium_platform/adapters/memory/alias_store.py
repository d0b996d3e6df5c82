"""Aliases of tenants in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.serving.model import Alias


class MemoryAliasStore:
    """Remembers aliases; a tenant has one alias of a name."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def put(self, alias: Alias) -> None:
        """Keep an alias in the place of the one with its name, if there is one."""
        async with self._database.write():
            self._aliases[alias.tenant_id, alias.name] = alias

    async def list(self, tenant_id: UUID | None = None) -> Sequence[Alias]:
        """Return the aliases of a tenant, or of everybody, by name."""
        found = [each for each in self._aliases.values() if tenant_id in {None, each.tenant_id}]
        return sorted(found, key=lambda alias: (alias.name, alias.tenant_id))

    async def remove(self, *, tenant_id: UUID, name: str) -> bool:
        """Forget an alias; False if the tenant has none of this name."""
        async with self._database.write():
            return self._aliases.pop((tenant_id, name), None) is not None

    @property
    def _aliases(self) -> dict[tuple[UUID, str], Alias]:
        return self._database.tables["aliases"]
