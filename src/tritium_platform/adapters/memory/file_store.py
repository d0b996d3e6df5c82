"""Which files there are, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.serving.file import FilePurpose, StoredFile


class MemoryFileStore:
    """Remembers which files there are; their bytes lie elsewhere."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, file: StoredFile) -> None:
        """Keep a new file."""
        async with self._database.write():
            self._files[file.id] = file

    async def get(
        self,
        file_id: UUID,
        *,
        tenant_id: UUID,
        is_to_stay: bool = False,  # noqa: ARG002 - a unit of work is alone here
    ) -> StoredFile | None:
        """Return a file, None also for somebody else's."""
        file = self._files.get(file_id)
        return file if file is not None and file.tenant_id == tenant_id else None

    async def list(
        self,
        tenant_id: UUID,
        *,
        limit: int,
        purpose: FilePurpose | None = None,
        after: UUID | None = None,
        is_oldest_first: bool = False,
    ) -> Sequence[StoredFile]:
        """Return a page of a tenant's files in the order they were made, those behind `after`."""
        found = [
            file
            for file in await self.list_all()
            if file.tenant_id == tenant_id
            and purpose in {None, file.purpose}
            and (after is None or (file.id > after if is_oldest_first else file.id < after))
        ]
        return (found if is_oldest_first else found[::-1])[:limit]

    async def list_all(self) -> Sequence[StoredFile]:
        """Return everybody's files, oldest first."""
        return sorted(self._files.values(), key=lambda file: file.id)

    async def count(self, tenant_id: UUID) -> int:
        """Return how many files a tenant has."""
        return sum(file.tenant_id == tenant_id for file in self._files.values())

    async def remove(self, file_id: UUID, *, tenant_id: UUID) -> bool:
        """Forget a file; False if the tenant has no such file."""
        async with self._database.write():
            if await self.get(file_id, tenant_id=tenant_id) is None:
                return False
            del self._files[file_id]
        return True

    @property
    def _files(self) -> dict[UUID, StoredFile]:
        return self._database.tables["files"]
