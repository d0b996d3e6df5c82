"""Tenants and their keys: the operator's routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from fastapi import APIRouter

from tritium_platform.api.deps import ThePlatform, admin, admin_key
from tritium_platform.api.schemas import KeyOut, NewKey, NewKeyOut, NewTenant, TenantChange, TenantOut
from tritium_platform.changes import key_changed, tenant_changed

if TYPE_CHECKING:
    from tritium_platform.tenancy.model import ApiKey, Tenant

router = APIRouter(prefix="/api/v1/tenants", tags=["tenants"], dependencies=[admin_key, admin])


@router.post("", status_code=201)
async def create_tenant(platform: ThePlatform, wish: NewTenant) -> TenantOut:
    """Create a tenant."""
    tenant = await platform.gateway.change(
        lambda: platform.tenancy.create_tenant(
            organization_name=wish.organization_name, tier=wish.tier, limit_overrides=wish.limit_overrides
        ),
        describe=lambda made: tenant_changed("tenant.create", made),
    )
    return _tenant_out(tenant)


@router.get("")
async def list_tenants(platform: ThePlatform) -> list[TenantOut]:
    """List all tenants, oldest first."""
    return [_tenant_out(tenant) for tenant in await platform.tenancy.list_tenants()]


@router.get("/{tenant_id}")
async def get_tenant(platform: ThePlatform, tenant_id: UUID) -> TenantOut:
    """Show a tenant."""
    return _tenant_out(await platform.tenancy.get_tenant(tenant_id))


@router.patch("/{tenant_id}")
async def change_tenant(platform: ThePlatform, tenant_id: UUID, wish: TenantChange) -> TenantOut:
    """Change tier, status or limits; effective for the next request."""
    tenant = await platform.gateway.change(
        lambda: platform.tenancy.change_tenant(
            tenant_id, tier=wish.tier, status=wish.status, limit_overrides=wish.limit_overrides
        ),
        describe=lambda changed: tenant_changed("tenant.change", changed),
    )
    return _tenant_out(tenant)


@router.post("/{tenant_id}/keys", status_code=201)
async def create_key(platform: ThePlatform, tenant_id: UUID, wish: NewKey) -> NewKeyOut:
    """Create a key; the answer is the only place where it is ever shown."""
    key, plaintext = await platform.gateway.change(
        lambda: platform.tenancy.create_key(
            tenant_id, name=wish.name, scopes=wish.scopes, expires_at=wish.expires_at
        ),
        describe=lambda made: key_changed("api_key.create", key_id=made[0].id, tenant_id=tenant_id),
    )
    return NewKeyOut(key=plaintext, **_key_fields(key))


@router.get("/{tenant_id}/keys")
async def list_keys(platform: ThePlatform, tenant_id: UUID) -> list[KeyOut]:
    """List a tenant's keys, revoked ones included."""
    await platform.tenancy.get_tenant(tenant_id)
    return [KeyOut(**_key_fields(key)) for key in await platform.tenancy.list_keys(tenant_id)]


@router.delete("/{tenant_id}/keys/{key_id}", status_code=204)
async def revoke_key(platform: ThePlatform, tenant_id: UUID, key_id: str) -> None:
    """Revoke a key: refused from now on, within a second in every process."""
    await platform.gateway.change(
        lambda: platform.tenancy.revoke_key(key_id, tenant_id=tenant_id),
        describe=lambda _: key_changed("api_key.revoke", key_id=key_id, tenant_id=tenant_id),
    )


def _tenant_out(tenant: Tenant) -> TenantOut:
    return TenantOut(
        id=tenant.id,
        organization_name=tenant.organization_name,
        tier=tenant.tier,
        status=tenant.status,
        limit_overrides=dict(tenant.limit_overrides),
        created_at=tenant.created_at,
    )


def _key_fields(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant_id": key.tenant_id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }
