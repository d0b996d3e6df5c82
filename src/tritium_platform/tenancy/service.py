"""Creates tenants and keys, and answers in constant time who is calling."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from tritium_platform.errors import (
    AuthenticationError,
    InvalidTokenError,
    NotFoundError,
    OverloadedError,
    TenantSuspendedError,
    TokenExpiredError,
    ValidationError,
)
from tritium_platform.tenancy.epoch import AuthorizationEpoch, not_answering
from tritium_platform.tenancy.keys import generate_token, hash_secret, parse_token, secret_matches
from tritium_platform.tenancy.known_callers import KnownCaller, KnownCallers
from tritium_platform.tenancy.model import (
    ALL_SCOPES,
    NO_OVERRIDES,
    TIER_LIMITS,
    ApiKey,
    Tenant,
    TenantContext,
    TenantStatus,
    override_limits,
)
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.tenancy.model import Scope, TenantTier, TierLimits
    from tritium_platform.tenancy.store import TenantStore
    from tritium_platform.values import Clock

LONGEST_NAME = 200
NANOSECONDS = 1_000_000_000
# For a database that neither answers nor refuses, where who calls can be told otherwise.
PATIENCE_SECONDS = 2.0


class TenancyService:
    """Tenants, their keys, and authentication.

    An accepted key is remembered for `cache_seconds`. Every `poll_seconds` at most, the epoch is read (one
    row), and when any process has changed a tenant or a key, every key is looked up again; a change made
    through this object is effective at once.

    Args:
        store: where tenants and keys are kept.
        pepper: the secret under which key secrets are hashed; at least 16 bytes.
        clock: the time.
        tier_limits: what each tier may use, when it is not `TIER_LIMITS`.
    """

    def __init__(
        self,
        *,
        store: TenantStore,
        pepper: bytes,
        clock: Clock,
        tier_limits: Mapping[TenantTier, TierLimits] = TIER_LIMITS,
        cache_seconds: float = 30.0,
        poll_seconds: float = 0.5,
        cache_size: int = 10_000,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._tier_limits = tier_limits
        self._cache_nanoseconds = int(cache_seconds * NANOSECONDS)
        self._known = KnownCallers(most=cache_size)
        self._epoch = AuthorizationEpoch(
            store=store,
            clock=clock,
            fresh_nanoseconds=int(poll_seconds * NANOSECONDS),
            went_back=self._known.forget_all,
        )

    def limits_of(self, tenant: Tenant) -> TierLimits:
        """Return the limits of the tenant's tier with the tenant's own overrides."""
        return override_limits(self._tier_limits[tenant.tier], tenant.limit_overrides)

    async def create_tenant(
        self, *, organization_name: str, tier: TenantTier, limit_overrides: Mapping[str, int] = NO_OVERRIDES
    ) -> Tenant:
        """Create a tenant; ValidationError for a bad name or override."""
        _require_name(organization_name, field="organization_name")
        override_limits(self._tier_limits[tier], limit_overrides)
        tenant = Tenant(
            id=uuid7(self._clock),
            organization_name=organization_name,
            tier=tier,
            created_at=self._clock.now(),
            limit_overrides=dict(limit_overrides),
        )
        await self._store.add_tenant(tenant)
        return tenant

    async def get_tenant(self, tenant_id: UUID) -> Tenant:
        """Return a tenant; NotFoundError if there is none."""
        tenant = await self._store.get_tenant(tenant_id)
        if tenant is None:
            raise NotFoundError("There is no such tenant.", kind="tenant", id=str(tenant_id))
        return tenant

    async def list_tenants(self) -> Sequence[Tenant]:
        """Return all tenants, oldest first."""
        return await self._store.list_tenants()

    async def tiers(self, tenant_ids: Collection[UUID]) -> Mapping[UUID, TenantTier]:
        """Return the tiers of those tenants that there are."""
        tiers = await self._store.tiers(tenant_ids)
        self._known.remember_tiers(tiers)
        return tiers

    async def change_tenant(
        self,
        tenant_id: UUID,
        *,
        tier: TenantTier | None = None,
        status: TenantStatus | None = None,
        limit_overrides: Mapping[str, int] | None = None,
    ) -> Tenant:
        """Change what is given; effective for the next request. NotFoundError, ValidationError."""
        tenant = await self.get_tenant(tenant_id)
        changed = replace(
            tenant,
            tier=tier or tenant.tier,
            status=status or tenant.status,
            limit_overrides=tenant.limit_overrides if limit_overrides is None else dict(limit_overrides),
        )
        if changed.status is TenantStatus.ACTIVE:
            changed = replace(changed, suspended_at=None)
        elif tenant.status is TenantStatus.ACTIVE:
            changed = replace(changed, suspended_at=self._clock.now())
        override_limits(self._tier_limits[changed.tier], changed.limit_overrides)
        await self._store.update_tenant(changed)
        if changed.status is not TenantStatus.ACTIVE:
            self._known.forget_tenant(tenant_id)
        self._epoch.forget()
        return changed

    async def create_key(
        self,
        tenant_id: UUID,
        *,
        name: str,
        scopes: frozenset[Scope] = ALL_SCOPES,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """Create a key and return it with its plaintext, which can never be shown again."""
        _require_name(name, field="name")
        if not scopes:
            raise ValidationError("A key without a scope can do nothing: give it at least one.")
        if expires_at is not None and (expires_at.tzinfo is None or expires_at <= self._clock.now()):
            raise ValidationError("The expiry of a key must lie in the future and name its time zone.")
        await self.get_tenant(tenant_id)
        token = generate_token()
        key = ApiKey(
            id=token.key_id,
            tenant_id=tenant_id,
            name=name,
            scopes=scopes,
            created_at=self._clock.now(),
            expires_at=expires_at,
        )
        await self._store.add_key(key, secret_hash=hash_secret(token.secret, pepper=self._pepper))
        return key, token.plaintext

    async def list_keys(self, tenant_id: UUID) -> Sequence[ApiKey]:
        """Return a tenant's keys, oldest first, revoked ones included."""
        return await self._store.list_keys(tenant_id)

    async def revoke_key(self, key_id: str, *, tenant_id: UUID) -> None:
        """Revoke a key: at once here, within a second in every other process. NotFoundError."""
        is_one = key_id.isprintable()  # no database has U+0000 in a text
        if not is_one or not await self._store.revoke_key(key_id, tenant_id=tenant_id, at=self._clock.now()):
            raise NotFoundError("There is no such API key.", kind="api_key", id=key_id[:LONGEST_NAME])
        self._known.forget_key(key_id)
        self._epoch.forget()

    async def authenticate_request(self, token: str) -> TenantContext:
        """Return who is calling.

        Raises:
            InvalidTokenError: the key is malformed, unknown, wrong or revoked.
            TokenExpiredError: the key was right, and its time is over.
            TenantSuspendedError: the key is right, and its tenant may not use the service.
        """
        digest = _digest(token)
        # What is known was taken apart before.
        parsed = parse_token(token) if digest not in self._known else None
        now = self._clock.monotonic_nanoseconds()
        if now >= self._epoch.fresh_until:
            await self._epoch.refresh()
        known = self._known.find(digest)
        if known is not None and known.epoch == self._epoch.number and now < known.fresh_until:
            _require_unexpired(known.context.key_id, expires_at=known.expires_at, now=self._clock.now())
            return known.context
        parsed = parsed or parse_token(token)
        epoch = self._epoch.number
        try:
            context, expires_at = await self._look_up(parsed.key_id, secret=parsed.secret)
        except (AuthenticationError, TenantSuspendedError):
            self._known.forget(digest)
            raise
        if epoch == self._epoch.number:  # what was read before a change must not outlive it
            fresh_until = self._clock.monotonic_nanoseconds() + self._cache_nanoseconds
            self._known.remember(digest, KnownCaller(context, expires_at, epoch, fresh_until))
        return context

    async def recognize(self, token: str) -> tuple[TenantContext, bool]:
        """Return who is calling, and whether that is confirmed; what is not, must be before it counts.

        While the database is away, or says nothing, it is who that was when it was asked last.

        Raises:
            InvalidTokenError, TokenExpiredError, TenantSuspendedError: as for `authenticate_request`.
            OverloadedError: the database is away, and the key is not known.
        """
        try:
            async with _patience():
                return await self.authenticate_request(token), True
        except OverloadedError:
            known = self._known.find(_digest(token))
            if known is None:
                raise
        _require_unexpired(known.context.key_id, expires_at=known.expires_at, now=self._clock.now())
        return known.context, False

    async def recognize_tenants(self, tenant_ids: Collection[UUID]) -> tuple[Mapping[UUID, TenantTier], bool]:
        """Return the tiers of those tenants that there are, and whether that is confirmed.

        Raises:
            OverloadedError: the database is away, and one of them is not known.
        """
        try:
            async with _patience():
                return await self.tiers(tenant_ids), True
        except OverloadedError:
            tiers = self._known.find_tiers(tenant_ids)
            if len(tiers) < len(set(tenant_ids)):
                raise
            return tiers, False

    async def context_of(self, key_id: str) -> TenantContext:
        """Return what a key may do now that was authenticated when it asked for work of its tenant.

        The work may outlive the key's expiry, not its revocation.

        Raises:
            InvalidTokenError: the key is revoked.
            TenantSuspendedError: its tenant may not use the service.
        """
        found = await self._store.find_key(key_id)
        if found is None:
            raise InvalidTokenError(key_id=key_id)
        key, _, tenant = found
        return self._context(key, tenant=tenant)

    async def _look_up(self, key_id: str, *, secret: str) -> tuple[TenantContext, datetime | None]:
        found = await self._store.find_key(key_id)
        stored = found[1] if found is not None else None
        if not secret_matches(secret, pepper=self._pepper, stored=stored) or found is None:
            raise InvalidTokenError(key_id=key_id)
        key, _, tenant = found
        if key.revoked_at is None:  # of a revoked key nothing else is told
            _require_unexpired(key_id, expires_at=key.expires_at, now=self._clock.now())
        return self._context(key, tenant=tenant), key.expires_at

    def _context(self, key: ApiKey, *, tenant: Tenant) -> TenantContext:
        if key.revoked_at is not None:
            raise InvalidTokenError(key_id=key.id)
        if tenant.status is not TenantStatus.ACTIVE:
            raise TenantSuspendedError
        return TenantContext(
            tenant_id=tenant.id,
            organization_name=tenant.organization_name,
            tier=tenant.tier,
            limits=self.limits_of(tenant),
            key_id=key.id,
            scopes=key.scopes,
        )


@asynccontextmanager
async def _patience() -> AsyncIterator[None]:
    """Wait for the database for a while only; OverloadedError if it says nothing."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield
    except TimeoutError as error:
        raise not_answering() from error


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _require_name(name: str, *, field: str) -> None:
    if not (0 < len(name.strip()) <= LONGEST_NAME) or not name.isprintable():
        raise ValidationError(f"A name has 1 to {LONGEST_NAME} printable characters.", field=field)


def _require_unexpired(key_id: str, *, expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        raise TokenExpiredError(key_id=key_id, expiry=expires_at)
