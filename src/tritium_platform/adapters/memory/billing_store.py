"""Price versions in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.billing.model import PriceVersion


class MemoryPriceStore:
    """Keeps price versions; a version is added once and never changed."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, version: PriceVersion) -> bool:
        """Keep a version; False if exactly this one is kept already."""
        async with self._database.write():
            if version.id in self._versions:
                return False
            self._versions[version.id] = version
        return True

    async def list(self) -> Sequence[PriceVersion]:
        """Return all versions by `valid_from`, oldest first."""
        return sorted(self._versions.values(), key=lambda each: (each.valid_from, each.id))

    @property
    def _versions(self) -> dict[str, PriceVersion]:
        return self._database.tables["price_versions"]
