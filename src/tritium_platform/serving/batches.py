"""Batches that tenants ask for: decided and written down here, worked on by `BatchWork`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from tritium_platform.errors import ConflictError, NotFoundError, RateLimitExceededError, ValidationError
from tritium_platform.serving.batch import OPEN_STATUSES, WINDOW, Batch, BatchStatus
from tritium_platform.serving.file import FilePurpose
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from uuid import UUID

    from tritium_platform.serving.batch import BatchEndpoint, KeptLine
    from tritium_platform.serving.files import FileService
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

# Every open batch has a few lines on their way.
MAX_OPEN = 20
RETRY_SECONDS = 60


class BatchStore(Protocol):
    """Keeps batches and what became of their lines."""

    async def add(self, batch: Batch) -> None:
        """Keep a new batch."""

    async def get(self, batch_id: UUID, *, tenant_id: UUID | None = None) -> Batch | None:
        """Return a batch; None for an unknown one, and for another tenant's if one is named."""

    async def list(self, tenant_id: UUID, *, limit: int, after: UUID | None = None) -> Sequence[Batch]:
        """Return a page of a tenant's batches, newest first, those behind `after`."""

    async def list_open(self, tenant_id: UUID | None = None) -> Sequence[Batch]:
        """Return the open batches of a tenant, or of everybody, oldest first."""

    async def move(self, batch: Batch, *, expected: Collection[BatchStatus]) -> bool:
        """Write all of a batch that may change, its counts excepted, if it is in an expected status."""

    async def keep_lines(self, batch_id: UUID, lines: Sequence[KeptLine]) -> None:
        """Keep what became of lines and count them; the first account of a line stands."""

    async def kept_numbers(self, batch_id: UUID) -> Collection[int]:
        """Return the numbers of the lines that are kept."""

    async def kept_bytes(self, tenant_id: UUID) -> int:
        """Return the bytes of kept lines of the tenant's open batches: no file counts them yet."""

    async def list_lines(self, batch_id: UUID, *, after: int, limit: int) -> Sequence[KeptLine]:
        """Return kept lines with numbers above `after`, in order."""

    async def forget_lines(self, batch_id: UUID) -> None:
        """Forget what became of the lines; the counts stay."""


class BatchService:
    """Takes, shows and cancels batches."""

    def __init__(self, *, store: BatchStore, files: FileService, clock: Clock) -> None:
        self._store = store
        self._files = files
        self._clock = clock

    async def create(
        self,
        context: TenantContext,
        *,
        endpoint: BatchEndpoint,
        input_file_id: UUID,
        metadata: Mapping[str, str],
    ) -> Batch:
        """Keep a new batch, in the caller's unit of work; then it is worked on, whatever happens.

        Raises:
            NotFoundError: the tenant has no such file.
            ValidationError: the file is not for batches.
            RateLimitExceededError: the tenant has as many open batches as one may have.
        """
        file = await self._files.get(context.tenant_id, input_file_id, is_to_stay=True)
        if file.purpose is not FilePurpose.BATCH:
            raise ValidationError(
                f"The file must have the purpose 'batch'; its purpose is '{file.purpose.value}'.",
                param="input_file_id",
            )
        await self._require_room(context.tenant_id)
        now = self._clock.now()
        batch = Batch(
            id=uuid7(self._clock),
            tenant_id=context.tenant_id,
            key_id=context.key_id,
            endpoint=endpoint,
            input_file_id=file.id,
            created_at=now,
            expires_at=now + WINDOW,
            metadata=metadata,
        )
        await self._store.add(batch)
        return batch

    async def get(self, tenant_id: UUID, batch_id: UUID) -> Batch:
        """Return one batch; raises NotFoundError, also for somebody else's."""
        batch = await self._store.get(batch_id, tenant_id=tenant_id)
        if batch is None:
            raise batch_not_found()
        return batch

    async def list(self, tenant_id: UUID, *, limit: int, after: UUID | None = None) -> Sequence[Batch]:
        """Return a page of the tenant's batches, newest first."""
        return await self._store.list(tenant_id, limit=limit, after=after)

    async def cancel(self, tenant_id: UUID, batch_id: UUID) -> Batch:
        """Begin no more lines of a batch; those on their way are finished. A cancelled one stays as it is.

        Raises:
            NotFoundError: no such batch.
            ConflictError: there is nothing left to cancel.
        """
        while True:  # until the status did not change between reading and writing
            batch = await self.get(tenant_id, batch_id)
            if batch.status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
                return batch
            if batch.status not in OPEN_STATUSES - {BatchStatus.FINALIZING}:
                raise ConflictError(f"A batch that is {batch.status.value} cannot be cancelled.")
            cancelling = batch.moved(BatchStatus.CANCELLING, at=self._clock.now())
            if await self._store.move(cancelling, expected=(batch.status,)):
                return cancelling

    async def keep_line(self, batch: Batch, line: KeptLine) -> None:
        """Keep what became of a line, in the caller's unit of work; the first account of it stands."""
        await self._store.keep_lines(batch.id, [line])

    async def _require_room(self, tenant_id: UUID) -> None:
        num_open = len(await self._store.list_open(tenant_id))
        if num_open >= MAX_OPEN:
            raise RateLimitExceededError(
                limit_name="open batches",
                limit=MAX_OPEN,
                current=num_open,
                reset_time=self._clock.now() + timedelta(seconds=RETRY_SECONDS),
                retry_after=RETRY_SECONDS,
            )


def batch_not_found() -> NotFoundError:
    """Return what is raised for a batch that is not there, or not this tenant's."""
    return NotFoundError("There is no such batch.", kind="batch")
