"""Which files there are, in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select

from tritium_platform.adapters.sql.tables.batches import files
from tritium_platform.serving.file import FilePurpose, StoredFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Row

    from tritium_platform.adapters.sql.database import Database


class SqlFileStore:
    """Remembers which files there are; their bytes lie elsewhere."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, file: StoredFile) -> None:
        """Keep a new file."""
        values = {name: getattr(file, name) for name in StoredFile.__slots__}
        values["purpose"] = file.purpose.value
        async with self._database.write() as connection:
            await connection.execute(insert(files).values(**values))

    async def get(self, file_id: UUID, *, tenant_id: UUID, is_to_stay: bool = False) -> StoredFile | None:
        """Return a file; one that is to stay is locked until the unit of work ends."""
        statement = select(files).where(files.c.id == file_id, files.c.tenant_id == tenant_id)
        if is_to_stay:  # SQLite has one writer, and leaves this out
            statement = statement.with_for_update()
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return _file(row) if row else None

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
        place = files.c.id
        order = place.asc() if is_oldest_first else place.desc()
        statement = select(files).where(files.c.tenant_id == tenant_id).order_by(order).limit(limit)
        if purpose is not None:
            statement = statement.where(files.c.purpose == purpose.value)
        if after is not None:
            statement = statement.where(place > after if is_oldest_first else place < after)
        async with self._database.read() as connection:
            return [_file(row) for row in await connection.execute(statement)]

    async def list_all(self) -> Sequence[StoredFile]:
        """Return everybody's files, oldest first."""
        statement = select(files).order_by(files.c.id)
        async with self._database.read() as connection:
            return [_file(row) for row in await connection.execute(statement)]

    async def count(self, tenant_id: UUID) -> int:
        """Return how many files a tenant has."""
        statement = select(func.count()).select_from(files).where(files.c.tenant_id == tenant_id)
        async with self._database.read() as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def remove(self, file_id: UUID, *, tenant_id: UUID) -> bool:
        """Forget a file; False if the tenant has no such file."""
        statement = (
            delete(files).where(files.c.id == file_id, files.c.tenant_id == tenant_id).returning(files.c.id)
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).one_or_none() is not None


def _file(row: Row[Any]) -> StoredFile:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name begins with an underscore
    return StoredFile(**{**values, "purpose": FilePurpose(row.purpose)})
