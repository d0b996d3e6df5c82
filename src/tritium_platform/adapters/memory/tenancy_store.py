"""Tenants and keys in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tritium_platform.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.tenancy.model import ApiKey, Tenant, TenantTier


class MemoryTenantStore:
    """Keeps tenants and keys; each write raises the epoch."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add_tenant(self, tenant: Tenant) -> None:
        """Keep a new tenant."""
        async with self._database.write():
            self._tenants[tenant.id] = tenant
            self._raise_epoch()

    async def get_tenant(self, tenant_id: UUID) -> Tenant | None:
        """Return a tenant."""
        return self._tenants.get(tenant_id)

    async def list_tenants(self) -> Sequence[Tenant]:
        """Return all tenants, oldest first."""
        return sorted(self._tenants.values(), key=lambda each: (each.created_at, each.id))

    async def tiers(self, tenant_ids: Collection[UUID]) -> Mapping[UUID, TenantTier]:
        """Return the tiers of those tenants that there are."""
        return {each: self._tenants[each].tier for each in tenant_ids if each in self._tenants}

    async def update_tenant(self, tenant: Tenant) -> bool:
        """Replace all but its id and its creation; False if there is no such tenant."""
        async with self._database.write():
            kept = self._tenants.get(tenant.id)
            if kept is None:
                return False
            self._tenants[tenant.id] = replace(tenant, created_at=kept.created_at)
            self._raise_epoch()
        return True

    async def add_key(self, key: ApiKey, *, secret_hash: bytes) -> None:
        """Keep a new key; ConflictError if the id is taken."""
        async with self._database.write():
            if key.id in self._keys:
                raise ConflictError("An API key with this id exists already: try again.")
            self._keys[key.id] = (key, secret_hash)
            self._raise_epoch()

    async def find_key(self, key_id: str) -> tuple[ApiKey, bytes, Tenant] | None:
        """Return a key, its secret's hash and its tenant."""
        found = self._keys.get(key_id)
        return None if found is None else (*found, self._tenants[found[0].tenant_id])

    async def list_keys(self, tenant_id: UUID) -> Sequence[ApiKey]:
        """Return a tenant's keys, oldest first, revoked ones included."""
        keys = [key for key, _ in self._keys.values() if key.tenant_id == tenant_id]
        return sorted(keys, key=lambda each: (each.created_at, each.id))

    async def revoke_key(self, key_id: str, *, tenant_id: UUID, at: datetime) -> bool:
        """Mark a key revoked (the first time stays); False if the tenant has no such key."""
        async with self._database.write():
            found = self._keys.get(key_id)
            if found is None or found[0].tenant_id != tenant_id:
                return False
            self._keys[key_id] = (replace(found[0], revoked_at=found[0].revoked_at or at), found[1])
            self._raise_epoch()
        return True

    async def authorization_epoch(self) -> int:
        """Return a number that grows with every change of a tenant or a key."""
        return self._epoch.get(1, 0)

    @property
    def _tenants(self) -> dict[UUID, Tenant]:
        return self._database.tables["tenants"]

    @property
    def _keys(self) -> dict[str, tuple[ApiKey, bytes]]:
        return self._database.tables["api_keys"]

    @property
    def _epoch(self) -> dict[int, int]:
        return self._database.tables["authorization_epoch"]

    def _raise_epoch(self) -> None:
        self._epoch[1] = self._epoch.get(1, 0) + 1
