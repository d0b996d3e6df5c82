"""Fair use in memory: counts of refusals, and measures."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.quotas.fairuse import FairUseMeasure

Key = tuple["UUID", "datetime", str]


class MemoryFairUseStore:
    """Keeps counts of refusals and the measures that were taken."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def count_refusal(self, tenant_id: UUID, *, slot: datetime, code: str) -> None:
        """Add one refusal with an error's code to the slot of time that begins at `slot`."""
        async with self._database.write():
            key = (tenant_id, slot, code)
            self._counts[key] = self._counts.get(key, 0) + 1

    async def refusals(self, *, since: datetime) -> Mapping[UUID, Mapping[str, int]]:
        """Return the sums by tenant and code over all slots that begin at `since` or later."""
        found: dict[UUID, dict[str, int]] = defaultdict(dict)
        for (tenant_id, slot, code), count in self._counts.items():
            if slot >= since:
                found[tenant_id][code] = found[tenant_id].get(code, 0) + count
        return dict(found)

    async def remove_refusals(self, *, before: datetime) -> int:
        """Forget the slots that began before a moment; return how many."""
        async with self._database.write():
            old = [key for key in self._counts if key[1] < before]
            for key in old:
                del self._counts[key]
        return len(old)

    async def add(self, measure: FairUseMeasure) -> None:
        """Keep a new measure."""
        async with self._database.write():
            self._measures[measure.id] = measure

    async def get(self, measure_id: UUID) -> FairUseMeasure | None:
        """Return a measure."""
        return self._measures.get(measure_id)

    async def lift(self, measure: FairUseMeasure) -> bool:
        """Write when and why a measure was lifted; False if it was lifted before."""
        async with self._database.write():
            kept = self._measures.get(measure.id)
            if kept is None or kept.lifted_at is not None:
                return False
            self._measures[measure.id] = measure
        return True

    async def list(
        self, *, tenant_id: UUID | None = None, since: datetime | None = None, limit: int
    ) -> Sequence[FairUseMeasure]:
        """Return measures that began at `since` or later, newest first."""
        found = [
            measure
            for measure in self._measures.values()
            if tenant_id in {None, measure.tenant_id} and (since is None or measure.starts_at >= since)
        ]
        return sorted(found, key=lambda each: (each.starts_at, each.id), reverse=True)[:limit]

    @property
    def _counts(self) -> dict[Key, int]:
        return self._database.tables["fair_use_refusals"]

    @property
    def _measures(self) -> dict[UUID, FairUseMeasure]:
        return self._database.tables["fair_use_measures"]
