"""Checkpoints that tenants upload: received, counted against their storage, unpacked, verified."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from tritium_platform.errors import ModelSizeExceededError, NotFoundError
from tritium_platform.serving.archive import unpack_checkpoint, unpacked_size
from tritium_platform.serving.arrivals import Arrivals, write_arriving
from tritium_platform.serving.directories import remove_directory
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tritium_platform.quotas.model import Reservation
    from tritium_platform.quotas.service import QuotaService
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

# A checkpoint directory holds a tokenizer and configuration beside its weights.
COMPANION_BYTES = 100_000_000
UNPACKING_TIME = timedelta(hours=1)
# A directory under this name is no upload yet, or none any more.
UNFINISHED = ".unfinished"


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A checkpoint that a tenant uploaded; `size_bytes` are the unpacked files."""

    id: UUID
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedUpload:
    """An upload that lies on the disk and whose storage is set aside, not yet counted."""

    upload: Upload
    reservation: Reservation


class UploadService:
    """Takes uploads into `<directory>/<tenant>/<upload>` and gives them up again.

    Under any other name than an id lies what is no upload yet or none any more; `clean` removes it.
    """

    def __init__(self, *, directory: Path, limit: int, quotas: QuotaService, clock: Clock) -> None:
        self._directory = directory
        self._limit = limit
        self._quotas = quotas
        self._clock = clock
        self._arrivals = Arrivals(kind="uploads", clock=clock)

    async def receive(self, context: TenantContext, *, chunks: AsyncIterator[bytes]) -> ReceivedUpload:
        """Take a ZIP archive of a checkpoint directory as a stream of bytes; `keep` makes it an upload.

        Raises:
            ValidationError: it is not a sound archive of a sound checkpoint.
            RequestTooLargeError: more bytes came than the operator takes.
            ModelSizeExceededError: the checkpoint is larger than the tier takes.
            StorageQuotaExceededError: it does not fit into the tenant's storage.
            RateLimitExceededError: too many uploads of the tenant arrive at the same time.
            ResourceError: the disk is full.
        """
        with self._arrivals.place_for(context.tenant_id):
            return await self._receive(context, chunks=chunks)

    async def _receive(self, context: TenantContext, *, chunks: AsyncIterator[bytes]) -> ReceivedUpload:
        upload_id = uuid7(self._clock)
        target = self._path(context.tenant_id, upload_id)
        archive = target.with_suffix(".zip")
        limit = context.limits.max_model_size + COMPANION_BYTES
        await write_arriving(chunks, path=archive, limit=min(self._limit, limit), limit_name="upload bytes")
        try:
            size = await asyncio.to_thread(unpacked_size, archive)
            if size > limit:
                raise ModelSizeExceededError(limit=context.limits.max_model_size, current=size)
            reservation = await self._quotas.storage.reserve(context, size=size, lifetime=UNPACKING_TIME)
            unfinished = target.with_suffix(UNFINISHED)
            try:
                await asyncio.to_thread(unpack_checkpoint, archive, target=unfinished, limit=size)
            except BaseException:
                await self._quotas.storage.void(reservation)
                raise
        finally:
            archive.unlink(missing_ok=True)
        return ReceivedUpload(upload=Upload(id=upload_id, size_bytes=size), reservation=reservation)

    async def keep(self, received: ReceivedUpload) -> Upload:
        """Count a received upload as the tenant's storage; from now on it can be named."""
        await self._quotas.storage.settle(received.reservation, size=received.upload.size_bytes)
        target = self._path(received.reservation.tenant_id, received.upload.id)
        target.with_suffix(UNFINISHED).rename(target)
        return received.upload

    async def discard(self, received: ReceivedUpload) -> None:
        """Forget a received upload that could not be kept."""
        if await self._quotas.storage.void(received.reservation):
            target = self._path(received.reservation.tenant_id, received.upload.id)
            for path in (target.with_suffix(UNFINISHED), target):
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    def clean(self) -> None:
        """Remove what a crash left of uploads on their way; no upload may be on its way meanwhile."""
        for path in self._directory.glob("*/*"):
            if _is_upload(path):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def path(self, tenant_id: UUID, upload_id: UUID) -> Path:
        """Return the directory of an upload; raises NotFoundError, also for somebody else's."""
        path = self._path(tenant_id, upload_id)
        if not path.is_dir():
            raise NotFoundError(f"There is no upload {upload_id}.", kind="upload")
        return path

    async def remove(self, tenant_id: UUID, upload_id: UUID) -> Upload:
        """Delete an upload and give its storage back; raises NotFoundError."""
        size = await asyncio.to_thread(remove_directory, self.path(tenant_id, upload_id))
        if size is None:  # somebody else was faster
            raise NotFoundError(f"There is no upload {upload_id}.", kind="upload")
        await self._quotas.storage.release(tenant_id, size=size)
        return Upload(id=upload_id, size_bytes=size)

    def _path(self, tenant_id: UUID, upload_id: UUID) -> Path:
        return self._directory / str(tenant_id) / str(upload_id)


def _is_upload(path: Path) -> bool:
    try:
        return path.name == str(UUID(path.name)) and path.is_dir()
    except ValueError:
        return False
