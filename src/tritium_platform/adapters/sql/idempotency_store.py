"""Idempotency keys in SQL: the unique key decides who was first."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, and_, delete, func, select, update

from tritium_platform.adapters.sql.tables.idempotency import idempotency_keys
from tritium_platform.serving.idempotency import KeptRequest

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row

    from tritium_platform.adapters.sql.database import Database

_PLACE = ("tenant_id", "key_id", "key_digest")
_table = idempotency_keys.c


class SqlIdempotencyStore:
    """Keeps one row per tenant, API key and idempotency key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, wanted: KeptRequest, *, now: datetime) -> KeptRequest:
        """Keep `wanted` if its key is free, and return what the key now belongs to."""
        fresh = self._database.insert(idempotency_keys).values(**asdict(wanted))
        is_over = and_(_table.answer.is_(None), _table.lease_until <= now, _table.expires_at > now)
        taken_over = (
            update(idempotency_keys)
            .where(_is_at(wanted), is_over, _table.fingerprint == wanted.fingerprint)
            .values(owner=wanted.owner, lease_until=wanted.lease_until)
        )
        statement = fresh.on_conflict_do_update(
            index_elements=list(_PLACE),
            set_={name: value for name, value in asdict(wanted).items() if name not in _PLACE},
            where=_table.expires_at <= now,
        )
        async with self._database.write() as connection:
            await connection.execute(statement)
            await connection.execute(taken_over)
            found = await connection.execute(select(idempotency_keys).where(_is_at(wanted)))
            return _request(found.one())

    async def renew(self, request: KeptRequest, *, until: datetime) -> bool:
        """Prolong the lease; False if the request has ended, or another owns it."""
        statement = update(idempotency_keys).where(_is_owned(request)).values(lease_until=until)
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def finish(self, request: KeptRequest, *, answer: bytes) -> bool:
        """Keep the answer; False if the request has ended, or another owns it."""
        statement = update(idempotency_keys).where(_is_owned(request)).values(answer=answer)
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def release(self, request: KeptRequest) -> bool:
        """Free the key; False if the request has ended, or another owns it."""
        async with self._database.write() as connection:
            removed = await connection.execute(delete(idempotency_keys).where(_is_owned(request)))
            return removed.rowcount == 1

    async def alive(self, tenant_id: UUID, *, now: datetime) -> tuple[int, datetime | None]:
        """Return how many rows of a tenant have not expired, and when the first of them does."""
        statement = select(func.count(), func.min(_table.expires_at)).where(
            _table.tenant_id == tenant_id, _table.expires_at > now
        )
        async with self._database.read() as connection:
            count, first = (await connection.execute(statement)).one()
        return count, first

    async def expire(self, *, now: datetime, limit: int) -> int:
        """Remove up to `limit` rows that have expired; return how many."""
        old = select(_table.id).where(_table.expires_at <= now).limit(limit)
        async with self._database.write() as connection:
            return (await connection.execute(delete(idempotency_keys).where(_table.id.in_(old)))).rowcount


def _is_at(request: KeptRequest) -> ColumnElement[bool]:
    return and_(*(_table[name] == getattr(request, name) for name in _PLACE))


def _is_owned(request: KeptRequest) -> ColumnElement[bool]:
    return and_(_is_at(request), _table.owner == request.owner, _table.answer.is_(None))


def _request(row: Row[tuple[object, ...]]) -> KeptRequest:
    return KeptRequest(**row._asdict())
