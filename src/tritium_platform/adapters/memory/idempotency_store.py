"""Idempotency keys in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.serving.idempotency import KeptRequest

_Place = tuple["UUID", str, bytes]


class MemoryIdempotencyStore:
    """Keeps one row per tenant, API key and idempotency key."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def claim(self, wanted: KeptRequest, *, now: datetime) -> KeptRequest:
        """Keep `wanted` if its key is free, and return what the key now belongs to."""
        async with self._database.write():
            kept = self._rows.get(_place(wanted))
            if kept is None or kept.expires_at <= now:
                kept = wanted
            elif kept.answer is None and kept.lease_until <= now and kept.fingerprint == wanted.fingerprint:
                kept = replace(kept, owner=wanted.owner, lease_until=wanted.lease_until)
            self._rows[_place(wanted)] = kept
            return kept

    async def renew(self, request: KeptRequest, *, until: datetime) -> bool:
        """Prolong the lease; False if the request has ended, or another owns it."""
        async with self._database.write():
            if not self._is_owner(request):
                return False
            self._rows[_place(request)] = replace(self._rows[_place(request)], lease_until=until)
            return True

    async def finish(self, request: KeptRequest, *, answer: bytes) -> bool:
        """Keep the answer; False if the request has ended, or another owns it."""
        async with self._database.write():
            if not self._is_owner(request):
                return False
            self._rows[_place(request)] = replace(self._rows[_place(request)], answer=answer)
            return True

    async def release(self, request: KeptRequest) -> bool:
        """Free the key; False if the request has ended, or another owns it."""
        async with self._database.write():
            if not self._is_owner(request):
                return False
            del self._rows[_place(request)]
            return True

    async def alive(self, tenant_id: UUID, *, now: datetime) -> tuple[int, datetime | None]:
        """Return how many rows of a tenant have not expired, and when the first of them does."""
        ends = [
            row.expires_at
            for row in self._rows.values()
            if row.tenant_id == tenant_id and row.expires_at > now
        ]
        return len(ends), min(ends, default=None)

    async def expire(self, *, now: datetime, limit: int) -> int:
        """Remove up to `limit` rows that have expired; return how many."""
        async with self._database.write():
            old = [place for place, row in self._rows.items() if row.expires_at <= now][:limit]
            for place in old:
                del self._rows[place]
            return len(old)

    def _is_owner(self, request: KeptRequest) -> bool:
        kept = self._rows.get(_place(request))
        return kept is not None and kept.answer is None and kept.owner == request.owner

    @property
    def _rows(self) -> dict[_Place, KeptRequest]:
        return self._database.tables["idempotency_keys"]


def _place(request: KeptRequest) -> _Place:
    return (request.tenant_id, request.key_id, request.key_digest)
