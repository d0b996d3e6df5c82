"""Where tenants and keys are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.tenancy.model import ApiKey, Tenant, TenantTier


class TenantStore(Protocol):
    """Keeps tenants and keys. Every write raises the authorization epoch in the same transaction."""

    async def add_tenant(self, tenant: Tenant) -> None:
        """Keep a new tenant."""

    async def get_tenant(self, tenant_id: UUID) -> Tenant | None:
        """Return a tenant."""

    async def list_tenants(self) -> Sequence[Tenant]:
        """Return all tenants, oldest first."""

    async def tiers(self, tenant_ids: Collection[UUID]) -> Mapping[UUID, TenantTier]:
        """Return the tiers of those tenants that there are."""

    async def update_tenant(self, tenant: Tenant) -> bool:
        """Replace all but its id and its creation; False if there is no such tenant."""

    async def add_key(self, key: ApiKey, *, secret_hash: bytes) -> None:
        """Keep a new key; raises ConflictError if the id is taken."""

    async def find_key(self, key_id: str) -> tuple[ApiKey, bytes, Tenant] | None:
        """Return a key, its secret's hash and its tenant."""

    async def list_keys(self, tenant_id: UUID) -> Sequence[ApiKey]:
        """Return a tenant's keys, oldest first, revoked ones included."""

    async def revoke_key(self, key_id: str, *, tenant_id: UUID, at: datetime) -> bool:
        """Mark a key revoked (the first time stays); False if the tenant has no such key."""

    async def authorization_epoch(self) -> int:
        """Return a number that grows with every change of a tenant or a key."""
