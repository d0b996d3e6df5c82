"""Batches in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tritium_platform.serving.batch import OPEN_STATUSES

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.serving.batch import Batch, BatchStatus, KeptLine


class MemoryBatchStore:
    """Keeps batches and what became of their lines."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, batch: Batch) -> None:
        """Keep a new batch."""
        async with self._database.write():
            self._batches[batch.id] = batch

    async def get(self, batch_id: UUID, *, tenant_id: UUID | None = None) -> Batch | None:
        """Return a batch; None for an unknown one, and for another tenant's if one is named."""
        batch = self._batches.get(batch_id)
        return batch if batch is not None and tenant_id in {None, batch.tenant_id} else None

    async def list(self, tenant_id: UUID, *, limit: int, after: UUID | None = None) -> Sequence[Batch]:
        """Return a page of a tenant's batches, newest first, those behind `after`."""
        found = [
            batch
            for batch in self._batches.values()
            if batch.tenant_id == tenant_id and (after is None or batch.id < after)
        ]
        return sorted(found, key=lambda batch: batch.id, reverse=True)[:limit]

    async def list_open(self, tenant_id: UUID | None = None) -> Sequence[Batch]:
        """Return the open batches of a tenant, or of everybody, oldest first."""
        found = [
            batch
            for batch in self._batches.values()
            if batch.status in OPEN_STATUSES and tenant_id in {None, batch.tenant_id}
        ]
        return sorted(found, key=lambda batch: batch.id)

    async def move(self, batch: Batch, *, expected: Collection[BatchStatus]) -> bool:
        """Write all of a batch that may change, its counts excepted, if it is in an expected status."""
        async with self._database.write():
            kept = self._batches.get(batch.id)
            if kept is None or kept.tenant_id != batch.tenant_id or kept.status not in expected:
                return False
            self._batches[batch.id] = replace(
                batch, completed=kept.completed, failed=kept.failed, kept_bytes=kept.kept_bytes
            )
        return True

    async def keep_lines(self, batch_id: UUID, lines: Sequence[KeptLine]) -> None:
        """Keep what became of lines and count them; the first account of a line stands."""
        async with self._database.write():
            for line in lines:
                if (batch_id, line.number) in self._lines:
                    continue
                self._lines[batch_id, line.number] = line
                batch = self._batches[batch_id]
                self._batches[batch_id] = replace(
                    batch,
                    completed=batch.completed + (not line.is_error),
                    failed=batch.failed + line.is_error,
                    kept_bytes=batch.kept_bytes + len(line.content) + 1,
                )

    async def kept_numbers(self, batch_id: UUID) -> Collection[int]:
        """Return the numbers of the lines that are kept."""
        return {number for of, number in self._lines if of == batch_id}

    async def kept_bytes(self, tenant_id: UUID) -> int:
        """Return the bytes of kept lines of the tenant's open batches."""
        return sum(batch.kept_bytes for batch in await self.list_open(tenant_id))

    async def list_lines(self, batch_id: UUID, *, after: int, limit: int) -> Sequence[KeptLine]:
        """Return kept lines with numbers above `after`, in order."""
        found = [line for (of, number), line in self._lines.items() if of == batch_id and number > after]
        return sorted(found, key=lambda line: line.number)[:limit]

    async def forget_lines(self, batch_id: UUID) -> None:
        """Forget what became of the lines; the counts stay."""
        async with self._database.write():
            for key in [key for key in self._lines if key[0] == batch_id]:
                del self._lines[key]

    @property
    def _batches(self) -> dict[UUID, Batch]:
        return self._database.tables["batches"]

    @property
    def _lines(self) -> dict[tuple[UUID, int], KeptLine]:
        return self._database.tables["batch_lines"]
