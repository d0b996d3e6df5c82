"""Price versions in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.billing.model import PriceVersion


class MemoryPriceStore:
    """Keeps price versions; one per `valid_from`, never changed."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, version: PriceVersion) -> bool:
        """Keep a version; False if one that starts at the same instant is kept already."""
        async with self._database.write():
            if version.valid_from in self._versions:
                return False
            self._versions[version.valid_from] = version
        return True

    async def list(self) -> Sequence[PriceVersion]:
        """Return all versions by `valid_from`, oldest first."""
        return sorted(self._versions.values(), key=lambda each: each.valid_from)

    @property
    def _versions(self) -> dict[datetime, PriceVersion]:
        return self._database.tables["price_versions"]
