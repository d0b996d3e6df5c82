"""Batches in SQL: a status changes only from the one its author believed in; a line is kept once."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update

from tritium_platform.adapters.sql.tables.batches import batch_lines, batches
from tritium_platform.serving.batch import (
    OPEN_STATUSES,
    Batch,
    BatchEndpoint,
    BatchStatus,
    InputProblem,
    KeptLine,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from sqlalchemy import Row

    from tritium_platform.adapters.sql.database import Database

_CHANGING = (
    "status",
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
    "total",
    "output_file_id",
    "error_file_id",
    "problems",
)
_OPEN = sorted(status.value for status in OPEN_STATUSES)


class SqlBatchStore:
    """Keeps batches and what became of their lines."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, batch: Batch) -> None:
        """Keep a new batch."""
        values = {column.name: getattr(batch, column.name) for column in batches.columns}
        async with self._database.write() as connection:
            await connection.execute(insert(batches).values(**_plain(values)))

    async def get(self, batch_id: UUID, *, tenant_id: UUID | None = None) -> Batch | None:
        """Return a batch; None for an unknown one, and for another tenant's if one is named."""
        statement = select(batches).where(batches.c.id == batch_id)
        if tenant_id is not None:
            statement = statement.where(batches.c.tenant_id == tenant_id)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return _batch(row) if row else None

    async def list(self, tenant_id: UUID, *, limit: int, after: UUID | None = None) -> Sequence[Batch]:
        """Return a page of a tenant's batches, newest first, those behind `after`."""
        statement = select(batches).where(batches.c.tenant_id == tenant_id)
        statement = statement.order_by(batches.c.id.desc()).limit(limit)
        if after is not None:
            statement = statement.where(batches.c.id < after)
        async with self._database.read() as connection:
            return [_batch(row) for row in await connection.execute(statement)]

    async def list_open(self, tenant_id: UUID | None = None) -> Sequence[Batch]:
        """Return the open batches of a tenant, or of everybody, oldest first."""
        statement = select(batches).where(batches.c.status.in_(_OPEN)).order_by(batches.c.id)
        if tenant_id is not None:
            statement = statement.where(batches.c.tenant_id == tenant_id)
        async with self._database.read() as connection:
            return [_batch(row) for row in await connection.execute(statement)]

    async def move(self, batch: Batch, *, expected: Collection[BatchStatus]) -> bool:
        """Write all of a batch that may change, its counts excepted, if it is in an expected status."""
        statement = (
            update(batches)
            .where(
                batches.c.id == batch.id,
                batches.c.tenant_id == batch.tenant_id,
                batches.c.status.in_([status.value for status in expected]),
            )
            .values(**_plain({name: getattr(batch, name) for name in _CHANGING}))
            .returning(batches.c.id)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def keep_lines(self, batch_id: UUID, lines: Sequence[KeptLine]) -> None:
        """Keep what became of lines and count them; the first account of a line stands."""
        rows = [{"batch_id": batch_id, **asdict(line)} for line in lines]
        statement = (
            self._database.insert(batch_lines)
            .values(rows)
            .on_conflict_do_nothing(index_elements=[batch_lines.c.batch_id, batch_lines.c.number])
            .returning(batch_lines.c.number)
        )
        async with self._database.write() as connection:
            kept = set((await connection.execute(statement)).scalars())
            new = [line for line in lines if line.number in kept]
            failed = sum(line.is_error for line in new)
            counted = (
                update(batches)
                .where(batches.c.id == batch_id)
                .values(
                    completed=batches.c.completed + len(new) - failed,
                    failed=batches.c.failed + failed,
                    kept_bytes=batches.c.kept_bytes + sum(len(line.content) + 1 for line in new),
                )
            )
            await connection.execute(counted)

    async def kept_numbers(self, batch_id: UUID) -> Collection[int]:
        """Return the numbers of the lines that are kept."""
        statement = select(batch_lines.c.number).where(batch_lines.c.batch_id == batch_id)
        async with self._database.read() as connection:
            return set((await connection.execute(statement)).scalars())

    async def kept_bytes(self, tenant_id: UUID) -> int:
        """Return the bytes of kept lines of the tenant's open batches."""
        statement = select(func.coalesce(func.sum(batches.c.kept_bytes), 0)).where(
            batches.c.tenant_id == tenant_id, batches.c.status.in_(_OPEN)
        )
        async with self._database.read() as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def list_lines(self, batch_id: UUID, *, after: int, limit: int) -> Sequence[KeptLine]:
        """Return kept lines with numbers above `after`, in order."""
        statement = (
            select(batch_lines.c.number, batch_lines.c.content, batch_lines.c.is_error)
            .where(batch_lines.c.batch_id == batch_id, batch_lines.c.number > after)
            .order_by(batch_lines.c.number)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return [KeptLine(**row._mapping) for row in await connection.execute(statement)]  # noqa: SLF001

    async def forget_lines(self, batch_id: UUID) -> None:
        """Forget what became of the lines; the counts stay."""
        async with self._database.write() as connection:
            await connection.execute(delete(batch_lines).where(batch_lines.c.batch_id == batch_id))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    plain = dict(values)
    for name in ("status", "endpoint"):
        if name in plain:
            plain[name] = plain[name].value
    plain["problems"] = [asdict(problem) for problem in values["problems"]]
    if "metadata" in plain:
        plain["metadata"] = dict(plain["metadata"])
    return plain


def _batch(row: Row[Any]) -> Batch:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name begins with an underscore
    values["status"], values["endpoint"] = BatchStatus(row.status), BatchEndpoint(row.endpoint)
    values["problems"] = tuple(InputProblem(**problem) for problem in row.problems)
    return Batch(**values)
