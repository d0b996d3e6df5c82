"""Spend caps in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tritium_platform.quotas.spend_cap import SpendMark

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.quotas.spend_cap import SpendCap


class MemorySpendStore:
    """Keeps caps, and what happened to them by month."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def caps(self) -> Sequence[SpendCap]:
        """Return all caps by tenant."""
        return [cap for _, cap in sorted(self._database.tables["spend_caps"].items())]

    async def put(self, cap: SpendCap) -> None:
        """Keep a cap in the place of the tenant's earlier one."""
        async with self._database.write():
            self._database.tables["spend_caps"][cap.tenant_id] = cap

    async def remove(self, tenant_id: UUID) -> bool:
        """Forget a cap; False if there is none."""
        async with self._database.write():
            return self._database.tables["spend_caps"].pop(tenant_id, None) is not None

    async def mark(self, tenant_id: UUID, *, period: str, name: str, at: datetime) -> bool:
        """Note that something happened; True the first time in a month, later it is counted only."""
        async with self._database.write():
            kept: dict[tuple[UUID, str, str], SpendMark] = self._database.tables["spend_marks"]
            key = (tenant_id, period, name)
            before = kept.get(key, SpendMark(name, 0, at))
            kept[key] = replace(before, count=before.count + 1)
        return not before.count

    async def unmark(self, tenant_id: UUID, *, period: str, names: Sequence[str]) -> None:
        """Forget that something happened in a month."""
        async with self._database.write():
            for name in names:
                self._database.tables["spend_marks"].pop((tenant_id, period, name), None)

    async def marks(self, tenant_id: UUID, *, period: str) -> Sequence[SpendMark]:
        """Return what happened in a month, by name."""
        kept: dict[tuple[UUID, str, str], SpendMark] = self._database.tables["spend_marks"]
        return [mark for key, mark in sorted(kept.items()) if key[:2] == (tenant_id, period)]
