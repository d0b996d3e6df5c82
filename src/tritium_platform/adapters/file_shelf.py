"""The files of batches, as retention sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.privacy.retention import DataKind, KeptThing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.serving.batches import BatchStore
    from tritium_platform.serving.files import FileService, FileStore
    from tritium_platform.values import UnitOfWork


class FileShelf:
    """Lists the files of all tenants; one that an open batch reads is held."""

    def __init__(
        self, *, store: FileStore, files: FileService, batches: BatchStore, unit_of_work: UnitOfWork
    ) -> None:
        self._store = store
        self._files = files
        self._batches = batches
        self._unit_of_work = unit_of_work

    async def list_kept(self) -> Sequence[KeptThing]:
        """Return every file."""
        in_use = {batch.input_file_id for batch in await self._batches.list_open()}
        return [
            KeptThing(
                kind=DataKind.BATCH_FILE,
                id=file.id,
                tenant_id=file.tenant_id,
                created_at=file.created_at,
                held_because="a batch reads it" if file.id in in_use else None,
            )
            for file in await self._store.list_all()
        ]

    async def remove(self, tenant_id: UUID, thing_id: UUID) -> None:
        """Delete a file and give its storage back; NotFoundError if it is gone, ConflictError if read."""
        async with self._unit_of_work():
            file = await self._files.remove(tenant_id, thing_id)
        await self._files.erase(file)
