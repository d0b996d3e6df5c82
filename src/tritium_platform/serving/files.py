"""Files of tenants: received, counted against their storage, listed, read, deleted."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from tritium.formats.storage import storage_error, sync_directory
from tritium_platform.errors import ConflictError, NotFoundError, ValidationError
from tritium_platform.serving.arrivals import Arrivals, write_arriving
from tritium_platform.serving.file import StoredFile
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from uuid import UUID

    from tritium_platform.quotas.model import Reservation
    from tritium_platform.quotas.service import QuotaService
    from tritium_platform.serving.batch import Batch
    from tritium_platform.serving.file import FilePurpose
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

KEEPING_TIME = timedelta(hours=1)
LONGEST_FILENAME = 255
# Storage bounds their bytes; this bounds their number, for the smallest has one.
MAX_FILES = 10_000
UNFINISHED = ".unfinished"


class FileStore(Protocol):
    """Remembers which files there are; their bytes lie elsewhere."""

    async def add(self, file: StoredFile) -> None:
        """Keep a new file."""

    async def get(self, file_id: UUID, *, tenant_id: UUID, is_to_stay: bool = False) -> StoredFile | None:
        """Return a file, None also for somebody else's.

        One that is to stay is neither removed nor asked to stay by others until the unit of work ends.
        """

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

    async def list_all(self) -> Sequence[StoredFile]:
        """Return everybody's files, oldest first."""

    async def count(self, tenant_id: UUID) -> int:
        """Return how many files a tenant has."""

    async def remove(self, file_id: UUID, *, tenant_id: UUID) -> bool:
        """Forget a file; False if the tenant has no such file."""


class OpenBatches(Protocol):
    """Knows the batches that are not over."""

    async def list_open(self, tenant_id: UUID | None = None) -> Sequence[Batch]:
        """Return the open batches of a tenant, or of everybody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedFile:
    """A file that lies on the disk and whose storage is set aside, not yet counted."""

    file: StoredFile
    reservation: Reservation


class FileService:
    """Takes files into `<directory>/<tenant>/<file>` and gives them up again."""

    def __init__(
        self,
        *,
        store: FileStore,
        batches: OpenBatches,
        directory: Path,
        limit: int,
        quotas: QuotaService,
        clock: Clock,
    ) -> None:
        self._store = store
        self._batches = batches
        self._directory = directory
        self._limit = limit
        self._quotas = quotas
        self._clock = clock
        self._arrivals = Arrivals(kind="file uploads", clock=clock)

    def place_for(self, tenant_id: UUID) -> AbstractContextManager[None]:
        """Hold a place for a file on its way; raises RateLimitExceededError if there is none."""
        return self._arrivals.place_for(tenant_id)

    async def receive(
        self, context: TenantContext, *, chunks: AsyncIterator[bytes], filename: str, purpose: FilePurpose
    ) -> ReceivedFile:
        """Take a file as a stream of bytes; `keep` makes it one of the tenant's.

        Raises:
            ValidationError: its name cannot be shown, or it is empty.
            RequestTooLargeError: more bytes came than the operator takes.
            ConflictError: the tenant has as many files as one may have.
            StorageQuotaExceededError: it does not fit into the tenant's storage.
            ResourceError: the disk is full.
        """
        if not 0 < len(filename) <= LONGEST_FILENAME or not filename.isprintable():
            raise ValidationError(
                f"A file's name has 1 to {LONGEST_FILENAME} printable characters.", param="file"
            )
        if await self._store.count(context.tenant_id) >= MAX_FILES:
            raise ConflictError(f"There are {MAX_FILES} files already: delete some.", param="file")
        file_id = uuid7(self._clock)
        path = self.path(context.tenant_id, file_id).with_suffix(UNFINISHED)
        size = await write_arriving(chunks, path=path, limit=self._limit, limit_name="file bytes")
        try:
            if not size:
                raise ValidationError("The file is empty.", param="file")
            await asyncio.to_thread(sync_file, path)
            reservation = await self._quotas.storage.reserve(context, size=size, lifetime=KEEPING_TIME)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        file = StoredFile(
            id=file_id,
            tenant_id=context.tenant_id,
            purpose=purpose,
            filename=filename,
            size_bytes=size,
            created_at=self._clock.now(),
        )
        return ReceivedFile(file=file, reservation=reservation)

    async def keep(self, received: ReceivedFile) -> StoredFile:
        """Count a received file as the tenant's storage; from now on it can be named."""
        file = received.file
        await self._store.add(file)
        await self._quotas.storage.settle(received.reservation, size=file.size_bytes)
        path = self.path(file.tenant_id, file.id)
        await asyncio.to_thread(rename_file, path.with_suffix(UNFINISHED), path)
        return file

    async def discard(self, received: ReceivedFile) -> None:
        """Forget a received file that could not be kept."""
        if await self._quotas.storage.void(received.reservation):
            path = self.path(received.file.tenant_id, received.file.id)
            for each in (path.with_suffix(UNFINISHED), path):
                each.unlink(missing_ok=True)

    async def keep_output(self, file: StoredFile) -> None:
        """Keep a file that a batch wrote to its `path`; it counts even where the storage is full."""
        await self._store.add(file)
        await self._quotas.storage.count(file.tenant_id, size=file.size_bytes)

    async def get(self, tenant_id: UUID, file_id: UUID, *, is_to_stay: bool = False) -> StoredFile:
        """Return one file, see `FileStore.get`; raises NotFoundError, also for somebody else's."""
        file = await self._store.get(file_id, tenant_id=tenant_id, is_to_stay=is_to_stay)
        if file is None:
            raise file_not_found()
        return file

    async def list(
        self,
        tenant_id: UUID,
        *,
        limit: int,
        purpose: FilePurpose | None = None,
        after: UUID | None = None,
        is_oldest_first: bool = False,
    ) -> Sequence[StoredFile]:
        """Return a page of the tenant's files, newest first unless told otherwise."""
        return await self._store.list(
            tenant_id, limit=limit, purpose=purpose, after=after, is_oldest_first=is_oldest_first
        )

    async def remove(self, tenant_id: UUID, file_id: UUID) -> StoredFile:
        """Forget a file and give its storage back; `erase` comes after, when that is certain.

        Raises:
            NotFoundError: no such file.
            ConflictError: a batch that is not over reads it.
        """
        file = await self.get(tenant_id, file_id, is_to_stay=True)
        for batch in await self._batches.list_open(tenant_id):
            if batch.input_file_id == file_id:
                raise ConflictError("A batch that is not over reads this file: cancel it, or wait.")
        await self._store.remove(file_id, tenant_id=tenant_id)
        await self._quotas.storage.release(tenant_id, size=file.size_bytes)
        return file

    async def erase(self, file: StoredFile) -> None:
        """Delete the bytes of a forgotten file."""
        path = self.path(file.tenant_id, file.id)
        await asyncio.to_thread(path.unlink, missing_ok=True)

    async def clean(self) -> None:
        """Delete bytes of no file, as a crash leaves them; nothing may be on its way meanwhile."""
        known = {self.path(file.tenant_id, file.id) for file in await self._store.list_all()}
        await asyncio.to_thread(self._delete_others, known)

    def path(self, tenant_id: UUID, file_id: UUID) -> Path:
        """Return where the bytes of a file lie."""
        return self._directory / str(tenant_id) / str(file_id)

    def _delete_others(self, known: set[Path]) -> None:
        for path in self._directory.glob("*/*"):
            if path not in known:
                path.unlink(missing_ok=True)


def file_not_found() -> NotFoundError:
    """Return what is raised for a file that is not there, or not this tenant's."""
    return NotFoundError("There is no such file.", kind="file")


def sync_file(path: Path) -> None:
    """Wait until the bytes of a file are on the disk; raises ResourceError if they cannot be."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(error, path=path) from error


def rename_file(source: Path, target: Path) -> None:
    """Give a file its name, and wait until the name is on the disk."""
    try:
        source.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        raise storage_error(error, path=target) from error
