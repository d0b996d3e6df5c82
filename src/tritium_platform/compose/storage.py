"""Wires what keeps files, and the batches that run over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.adapters.sql.file_store import SqlFileStore
from tritium_platform.adapters.sql.idempotency_store import SqlIdempotencyStore
from tritium_platform.serving.batch_lines import LineRunner
from tritium_platform.serving.batch_output import BatchCloser
from tritium_platform.serving.batch_work import BatchWork
from tritium_platform.serving.files import FileService
from tritium_platform.serving.idempotency import IdempotencyService

if TYPE_CHECKING:
    from tritium_platform.adapters.sql.batch_store import SqlBatchStore
    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.books import Books
    from tritium_platform.config import PlatformConfig
    from tritium_platform.tenancy.service import TenancyService
    from tritium_platform.values import Clock


def open_files(
    config: PlatformConfig, *, database: Database, batches: SqlBatchStore, books: Books
) -> FileService:
    """Return the service that keeps tenants' files."""
    return FileService(
        store=SqlFileStore(database),
        batches=batches,
        directory=config.files_dir,
        limit=config.max_file_bytes,
        quotas=books.quotas,
        clock=books.clock,
    )


def open_idempotency(config: PlatformConfig, *, database: Database, clock: Clock) -> IdempotencyService:
    """Return the service that answers a repeated request as the first time."""
    return IdempotencyService(
        store=SqlIdempotencyStore(database),
        clock=clock,
        secret=config.pepper(),
        retention_seconds=config.idempotency_seconds,
        most_keys=config.max_idempotency_keys,
    )


def batch_work(
    store: SqlBatchStore, *, files: FileService, tenancy: TenancyService, books: Books
) -> BatchWork:
    """Return what runs the lines of batches."""
    return BatchWork(
        batches=store,
        files=files,
        lines=LineRunner(batches=store, quotas=books.quotas, key_holders=tenancy, clock=books.clock),
        closer=BatchCloser(
            batches=store,
            files=files,
            outbox=books.outbox,
            unit_of_work=books.unit_of_work,
            clock=books.clock,
        ),
        clock=books.clock,
    )
