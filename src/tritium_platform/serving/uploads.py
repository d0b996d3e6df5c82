"""Checkpoints that tenants upload: received, counted against their storage, unpacked, verified."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, TYPE_CHECKING
from uuid import UUID

from tritium.formats.storage import storage_error
from tritium_platform.errors import (
    ModelSizeExceededError,
    NotFoundError,
    RateLimitExceededError,
    RequestTooLargeError,
)
from tritium_platform.serving.archive import unpack_checkpoint, unpacked_size
from tritium_platform.serving.directories import remove_directory
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tritium_platform.quotas.model import Reservation
    from tritium_platform.quotas.service import QuotaService
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

# A checkpoint directory holds a tokenizer and configuration beside its weights.
COMPANION_BYTES = 100_000_000
# What arrives is counted against the storage when it is there; until then its number is bounded.
MAX_AT_ONCE = 4
RETRY_SECONDS = 10
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
        self._arriving: Counter[UUID] = Counter()

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
        with self._place_for(context.tenant_id):
            return await self._receive(context, chunks=chunks)

    async def _receive(self, context: TenantContext, *, chunks: AsyncIterator[bytes]) -> ReceivedUpload:
        upload_id = uuid7(self._clock)
        target = self._path(context.tenant_id, upload_id)
        archive = target.with_suffix(".zip")
        limit = context.limits.max_model_size + COMPANION_BYTES
        await _write_archive(chunks, archive=archive, limit=min(self._limit, limit))
        try:
            size = await asyncio.to_thread(unpacked_size, archive)
            if size > limit:
                raise ModelSizeExceededError(limit=context.limits.max_model_size, current=size)
            reservation = await self._quotas.reserve_storage(context, size=size, lifetime=UNPACKING_TIME)
            unfinished = target.with_suffix(UNFINISHED)
            try:
                await asyncio.to_thread(unpack_checkpoint, archive, target=unfinished, limit=size)
            except BaseException:
                await self._quotas.void_storage(reservation)
                raise
        finally:
            archive.unlink(missing_ok=True)
        return ReceivedUpload(upload=Upload(id=upload_id, size_bytes=size), reservation=reservation)

    async def keep(self, received: ReceivedUpload) -> Upload:
        """Count a received upload as the tenant's storage; from now on it can be named."""
        await self._quotas.settle_storage(received.reservation, size=received.upload.size_bytes)
        target = self._path(received.reservation.tenant_id, received.upload.id)
        target.with_suffix(UNFINISHED).rename(target)
        return received.upload

    async def discard(self, received: ReceivedUpload) -> None:
        """Forget a received upload that could not be kept."""
        if await self._quotas.void_storage(received.reservation):
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
        await self._quotas.release_storage(tenant_id, size=size)
        return Upload(id=upload_id, size_bytes=size)

    @contextlib.contextmanager
    def _place_for(self, tenant_id: UUID) -> Iterator[None]:
        if self._arriving[tenant_id] >= MAX_AT_ONCE:
            raise RateLimitExceededError(
                limit_name="concurrent uploads",
                limit=MAX_AT_ONCE,
                current=self._arriving[tenant_id],
                reset_time=self._clock.now() + timedelta(seconds=RETRY_SECONDS),
                retry_after=RETRY_SECONDS,
            )
        self._arriving[tenant_id] += 1
        try:
            yield
        finally:
            self._arriving[tenant_id] -= 1
            if not self._arriving[tenant_id]:
                del self._arriving[tenant_id]

    def _path(self, tenant_id: UUID, upload_id: UUID) -> Path:
        return self._directory / str(tenant_id) / str(upload_id)


async def _write_archive(chunks: AsyncIterator[bytes], *, archive: Path, limit: int) -> None:
    received = 0
    try:
        with _removed_on_failure(archive) as file:
            async for chunk in chunks:
                received += len(chunk)
                if received > limit:
                    raise RequestTooLargeError(limit_name="upload bytes", limit=limit, current=received)
                file.write(chunk)
    except OSError as error:
        raise storage_error(error, path=archive) from error


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file to write; it stays only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _is_upload(path: Path) -> bool:
    try:
        return path.name == str(UUID(path.name)) and path.is_dir()
    except ValueError:
        return False
