"""Answers that are given again: a request that comes twice under one key runs once and is billed once.

After draft-ietf-httpapi-idempotency-key-header-07. A key belongs to one API key of one tenant. Whoever claims
it owns it while its lease lasts, and renews that. When the owner dies or fails, the next caller takes over
under the same id, which is also the id in the books: however often a request runs, its use is counted once.

What is kept says as little as it can: the key and the request only as keyed digests, the answer encrypted.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Protocol
from uuid import UUID, uuid4, uuid5

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tritium_platform.errors import (
    ConflictError,
    ErrorCategory,
    RateLimitExceededError,
    Recovery,
    ValidationError,
)
from tritium_platform.privacy.encryption import (
    DataPlace,
    KeyRing,
    decrypt_sensitive_data,
    encrypt_sensitive_data,
)
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from datetime import datetime

    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock

LEASE_SECONDS = 15.0
RUNNING_RETRY_SECONDS = 1
MOST_ANSWER_BYTES = 4 * 2**20
EXPIRE_AT_ONCE = 500
SECRET_BYTES = 32


class IdempotencyKeyReusedError(ValidationError):
    """The key belongs to another request."""


class AnswerNotKeptError(ValidationError):
    """The request has run, and its answer was too large to be kept; details: limit (bytes)."""


class StillRunningError(ConflictError):
    """The first request under this key has not ended; details: retry_after (whole seconds)."""

    category: ClassVar[ErrorCategory] = ErrorCategory.TRANSIENT
    default_recovery = Recovery.RETRY_AFTER


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRequest:
    """One key as the store keeps it; `answer` is None while the request runs."""

    id: UUID
    tenant_id: UUID
    key_id: str
    key_digest: bytes
    fingerprint: bytes
    owner: UUID
    lease_until: datetime
    expires_at: datetime
    answer: bytes | None = None


class IdempotencyStore(Protocol):
    """Keeps one row per tenant, API key and idempotency key."""

    async def claim(self, wanted: KeptRequest, *, now: datetime) -> KeptRequest:
        """Keep `wanted` if its key is free, and return what the key now belongs to.

        A row that has expired is replaced. One without an answer whose lease is over and whose fingerprint
        is the same gets owner and lease of `wanted`, and keeps its id and expiry.
        """
        ...

    async def renew(self, request: KeptRequest, *, until: datetime) -> bool:
        """Prolong the lease; False if the request has ended, or another owns it."""
        ...

    async def finish(self, request: KeptRequest, *, answer: bytes) -> bool:
        """Keep the answer; False if the request has ended, or another owns it."""
        ...

    async def release(self, request: KeptRequest) -> bool:
        """Free the key; False if the request has ended, or another owns it."""
        ...

    async def alive(self, tenant_id: UUID, *, now: datetime) -> tuple[int, datetime | None]:
        """Return how many rows of a tenant have not expired, and when the first of them does."""
        ...

    async def expire(self, *, now: datetime, limit: int) -> int:
        """Remove up to `limit` rows that have expired; return how many."""
        ...


class StoredAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it went out: status, the headers that matter, and all of the body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes | None
    request_id: str


class IdempotencyService:
    """Decides whether a request under a key runs, waits, or gets the answer of the first one.

    Args:
        store: where keys are kept.
        clock: the time.
        secret: what digests and encryption are derived from.
        retention_seconds: how long a key and its answer are kept.
        most_keys: how many a tenant may have at one time.
    """

    def __init__(
        self,
        *,
        store: IdempotencyStore,
        clock: Clock,
        secret: bytes,
        retention_seconds: float,
        most_keys: int,
    ) -> None:
        self._store = store
        self._clock = clock
        self._digest_key = _derived(secret, b"tritium idempotency digests")
        self._ring = KeyRing({"answers": _derived(secret, b"tritium idempotency answers")}, current="answers")
        self._retention = timedelta(seconds=retention_seconds)
        self._most_keys = most_keys

    async def begin(
        self, context: TenantContext, *, key: str, request: tuple[bytes, ...]
    ) -> KeptRequest | StoredAnswer:
        """Claim a key for a request, or return the answer that was given under it.

        Args:
            context: who asks.
            key: the idempotency key.
            request: what makes the request the same one: its path and its body.

        Raises:
            IdempotencyKeyReusedError: the key belongs to another request.
            AnswerNotKeptError: the request has run, and its answer was too large to keep.
            StillRunningError: the first request runs still.
            RateLimitExceededError: the tenant has as many keys as it may.
        """
        wanted = self._wanted(context, key=key, request=request)
        kept = await self._store.claim(wanted, now=self._clock.now())
        if not hmac.compare_digest(kept.fingerprint, wanted.fingerprint):
            raise IdempotencyKeyReusedError(
                "This Idempotency-Key was used for another request: take a new one.", param="Idempotency-Key"
            )
        if kept.answer is not None:
            return self._opened(kept, kept.answer)
        if kept.owner != wanted.owner:
            raise StillRunningError(
                "The first request with this Idempotency-Key is still running: try again in a moment.",
                retry_after=RUNNING_RETRY_SECONDS,
            )
        if kept.id == wanted.id:
            await self._require_room(kept)
        return kept

    async def renew(self, request: KeptRequest) -> bool:
        """Prolong the lease of a request that runs; False if it is not this owner's any more."""
        return await self._store.renew(request, until=self._lease())

    async def finish(self, request: KeptRequest, answer: StoredAnswer) -> bool:
        """Keep the answer for whoever asks again; an answer that is too large is only said to exist."""
        if answer.body is not None and len(answer.body) > MOST_ANSWER_BYTES:
            answer = msgspec.structs.replace(answer, body=None)
        sealed = encrypt_sensitive_data(
            msgspec.msgpack.encode(answer), place=_place(request), keys=self._ring
        )
        return await self._store.finish(request, answer=sealed)

    async def release(self, request: KeptRequest) -> bool:
        """Free the key of a request that was refused before it used anything."""
        return await self._store.release(request)

    async def abandon(self, request: KeptRequest) -> bool:
        """Let the next caller take over a request that failed or was cut, and may have used something."""
        return await self._store.renew(request, until=self._clock.now())

    async def sweep(self) -> int:
        """Forget what has expired; run it every few seconds."""
        return await self._store.expire(now=self._clock.now(), limit=EXPIRE_AT_ONCE)

    def _wanted(self, context: TenantContext, *, key: str, request: tuple[bytes, ...]) -> KeptRequest:
        now = self._clock.now()
        who = (context.tenant_id.bytes, context.key_id.encode())
        return KeptRequest(
            id=uuid7(self._clock),
            tenant_id=context.tenant_id,
            key_id=context.key_id,
            key_digest=self._digest(b"key", *who, key.encode()),
            fingerprint=self._digest(b"request", *who, *request),
            owner=uuid4(),
            lease_until=self._lease(),
            expires_at=now + self._retention,
        )

    async def _require_room(self, request: KeptRequest) -> None:
        now = self._clock.now()
        count, first_end = await self._store.alive(request.tenant_id, now=now)
        if count <= self._most_keys or first_end is None:
            return
        await self._store.release(request)
        raise RateLimitExceededError(
            limit_name="idempotency keys",
            limit=self._most_keys,
            current=count - 1,
            reset_time=first_end,
            retry_after=max(1, math.ceil((first_end - now).total_seconds())),
        )

    def _opened(self, request: KeptRequest, sealed: bytes) -> StoredAnswer:
        plain = decrypt_sensitive_data(sealed, place=_place(request), keys=self._ring)
        answer = msgspec.msgpack.decode(plain, type=StoredAnswer)
        if answer.body is None:
            raise AnswerNotKeptError(
                f"The request with this Idempotency-Key has run as request {answer.request_id}; its answer "
                f"had more than {MOST_ANSWER_BYTES} bytes and was not kept. Take a new key to run it again.",
                param="Idempotency-Key",
                limit=MOST_ANSWER_BYTES,
            )
        return answer

    def _lease(self) -> datetime:
        return self._clock.now() + timedelta(seconds=LEASE_SECONDS)

    def _digest(self, *parts: bytes) -> bytes:
        # Keyed, for a prompt or a key that can be guessed could be recognised in a plain digest.
        framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self._digest_key, framed, hashlib.sha256)


def event_id_of(request_id: UUID, *, index: int) -> UUID:
    """Return the id under which the index-th use of a kept request is counted, whoever runs it."""
    return uuid5(request_id, str(index))


def _place(request: KeptRequest) -> DataPlace:
    return DataPlace(str(request.tenant_id), "idempotency_keys", "answer", str(request.id))


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), length=SECRET_BYTES, salt=None, info=purpose).derive(secret)
