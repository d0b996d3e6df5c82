"""Tenants and keys in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, select, update

from tritium_platform.adapters.sql.tables.tenancy import api_keys, authorization_epoch, tenants
from tritium_platform.errors import ConflictError
from tritium_platform.tenancy.model import ApiKey, Scope, Tenant, TenantStatus, TenantTier

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tritium_platform.adapters.sql.database import Database


class SqlTenantStore:
    """Keeps tenants and keys; each write raises the epoch in its own transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_tenant(self, tenant: Tenant) -> None:
        """Keep a new tenant."""
        async with self._database.write() as connection:
            await connection.execute(insert(tenants).values(id=tenant.id, **_tenant_values(tenant)))
            await self._raise_epoch(connection)

    async def get_tenant(self, tenant_id: UUID) -> Tenant | None:
        """Return a tenant."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(tenants).where(tenants.c.id == tenant_id))).one_or_none()
        return _tenant(row) if row else None

    async def list_tenants(self) -> Sequence[Tenant]:
        """Return all tenants, oldest first."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(tenants).order_by(tenants.c.created_at, tenants.c.id))
        return [_tenant(row) for row in rows]

    async def tiers(self, tenant_ids: Collection[UUID]) -> Mapping[UUID, TenantTier]:
        """Return the tiers of those tenants that there are."""
        statement = select(tenants.c.id, tenants.c.tier).where(tenants.c.id.in_(tenant_ids))
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()
        return {row.id: TenantTier(row.tier) for row in rows}

    async def update_tenant(self, tenant: Tenant) -> bool:
        """Replace all but its id and its creation; False if there is no such tenant."""
        statement = update(tenants).where(tenants.c.id == tenant.id)
        values = _tenant_values(tenant)
        del values["created_at"]
        async with self._database.write() as connection:
            result = await connection.execute(statement.values(**values))
            await self._raise_epoch(connection)
        return result.rowcount == 1

    async def add_key(self, key: ApiKey, *, secret_hash: bytes) -> None:
        """Keep a new key; ConflictError if the id is taken."""
        statement = (
            self._database.insert(api_keys)
            .values(
                id=key.id,
                tenant_id=key.tenant_id,
                name=key.name,
                scopes=sorted(key.scopes),
                secret_hash=secret_hash,
                created_at=key.created_at,
                expires_at=key.expires_at,
                revoked_at=key.revoked_at,
            )
            .on_conflict_do_nothing(index_elements=[api_keys.c.id])
            .returning(api_keys.c.id)
        )
        async with self._database.write() as connection:
            if (await connection.execute(statement)).one_or_none() is None:
                raise ConflictError("An API key with this id exists already: try again.")
            await self._raise_epoch(connection)

    async def find_key(self, key_id: str) -> tuple[ApiKey, bytes, Tenant] | None:
        """Return a key, its secret's hash and its tenant."""
        statement = (
            select(*(column.label(f"key_{column.name}") for column in api_keys.c), *tenants.c)
            .join_from(api_keys, tenants, api_keys.c.tenant_id == tenants.c.id)
            .where(api_keys.c.id == key_id)
        )
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            return None
        return _key(row, prefix="key_"), bytes(row.key_secret_hash), _tenant(row)

    async def list_keys(self, tenant_id: UUID) -> Sequence[ApiKey]:
        """Return a tenant's keys, oldest first, revoked ones included."""
        statement = (
            select(api_keys)
            .where(api_keys.c.tenant_id == tenant_id)
            .order_by(api_keys.c.created_at, api_keys.c.id)
        )
        async with self._database.read() as connection:
            rows = await connection.execute(statement)
        return [_key(row) for row in rows]

    async def revoke_key(self, key_id: str, *, tenant_id: UUID, at: datetime) -> bool:
        """Mark a key revoked (the first time stays); False if the tenant has no such key."""
        statement = (
            update(api_keys)
            .where(api_keys.c.id == key_id, api_keys.c.tenant_id == tenant_id)
            .values(revoked_at=func.coalesce(api_keys.c.revoked_at, at))
        )
        async with self._database.write() as connection:
            result = await connection.execute(statement)
            await self._raise_epoch(connection)
        return result.rowcount == 1

    async def authorization_epoch(self) -> int:
        """Return a number that grows with every change of a tenant or a key."""
        async with self._database.read() as connection:
            return await connection.scalar(select(authorization_epoch.c.epoch)) or 0

    async def _raise_epoch(self, connection: AsyncConnection) -> None:
        statement = self._database.insert(authorization_epoch).values(id=1, epoch=1)
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=[authorization_epoch.c.id], set_={"epoch": authorization_epoch.c.epoch + 1}
            )
        )


def _tenant_values(tenant: Tenant) -> dict[str, Any]:
    return {
        "organization_name": tenant.organization_name,
        "tier": tenant.tier.value,
        "status": tenant.status.value,
        "suspended_at": tenant.suspended_at,
        "limit_overrides": dict(tenant.limit_overrides),
        "created_at": tenant.created_at,
    }


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant(
        id=row.id,
        organization_name=row.organization_name,
        tier=TenantTier(row.tier),
        created_at=row.created_at,
        status=TenantStatus(row.status),
        limit_overrides=dict(row.limit_overrides),
        suspended_at=row.suspended_at,
    )


def _key(row: Row[Any], *, prefix: str = "") -> ApiKey:
    values = {
        name.removeprefix(prefix): value
        for name, value in row._mapping.items()  # noqa: SLF001 - public by documentation
        if name.startswith(prefix)
    }
    return ApiKey(
        id=values["id"],
        tenant_id=values["tenant_id"],
        name=values["name"],
        scopes=frozenset(Scope(each) for each in values["scopes"]),
        created_at=values["created_at"],
        expires_at=values["expires_at"],
        revoked_at=values["revoked_at"],
    )
