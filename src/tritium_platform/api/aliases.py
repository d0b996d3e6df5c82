"""Aliases of deployments: a tenant's own, and for the operator those of every tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from fastapi import APIRouter

from tritium_platform.api.deps import DeploymentsCaller, ThePlatform, admin, admin_key, tenant_key
from tritium_platform.api.schemas import AliasOut, AliasTarget
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.changes import Change

if TYPE_CHECKING:
    from tritium_platform.compose import Platform
    from tritium_platform.serving.model import Alias

router = APIRouter(prefix="/api/v1/aliases", tags=["aliases"], dependencies=[tenant_key])
operator_router = APIRouter(
    prefix="/api/v1/tenants/{tenant_id}/aliases", tags=["aliases"], dependencies=[admin_key, admin]
)


@router.get("")
async def list_aliases(platform: ThePlatform, caller: DeploymentsCaller) -> list[AliasOut]:
    """List the aliases by name."""
    return [_alias_out(platform, alias) for alias in await platform.aliases.list(caller.tenant_id)]


@router.put("/{alias}")
async def put_alias(
    platform: ThePlatform, caller: DeploymentsCaller, alias: str, wish: AliasTarget
) -> AliasOut:
    """Point an alias at a deployment or another alias: every request from now on goes there."""
    return await _put(platform, caller.tenant_id, alias, wish.target, key_id=caller.key_id)


@router.delete("/{alias}", status_code=204)
async def delete_alias(platform: ThePlatform, caller: DeploymentsCaller, alias: str) -> None:
    """Forget an alias; requests that began with it are finished."""
    await _delete(platform, caller.tenant_id, alias, key_id=caller.key_id)


@operator_router.get("")
async def list_aliases_of(platform: ThePlatform, tenant_id: UUID) -> list[AliasOut]:
    """List the aliases of a tenant by name."""
    await platform.tenancy.get_tenant(tenant_id)
    return [_alias_out(platform, alias) for alias in await platform.aliases.list(tenant_id)]


@operator_router.put("/{alias}")
async def put_alias_of(platform: ThePlatform, tenant_id: UUID, alias: str, wish: AliasTarget) -> AliasOut:
    """Point an alias of a tenant at one of its deployments or aliases."""
    await platform.tenancy.get_tenant(tenant_id)
    return await _put(platform, tenant_id, alias, wish.target)


@operator_router.delete("/{alias}", status_code=204)
async def delete_alias_of(platform: ThePlatform, tenant_id: UUID, alias: str) -> None:
    """Forget an alias of a tenant."""
    await platform.tenancy.get_tenant(tenant_id)
    await _delete(platform, tenant_id, alias)


async def _put(
    platform: Platform, tenant_id: UUID, name: str, target: str, *, key_id: str | None = None
) -> AliasOut:
    async with platform.aliases.names:
        alias = await platform.gateway.change(
            lambda: platform.aliases.put(tenant_id, name=name, target=target),
            describe=lambda made: _change("alias.put", made, key_id=key_id),
        )
        platform.aliases.publish(alias)
    return _alias_out(platform, alias)


async def _delete(platform: Platform, tenant_id: UUID, name: str, *, key_id: str | None = None) -> None:
    async with platform.aliases.names:
        alias = await platform.gateway.change(
            lambda: platform.aliases.remove(tenant_id, name),
            describe=lambda gone: _change("alias.delete", gone, key_id=key_id),
        )
        platform.aliases.withdraw(alias)


def _change(action: str, alias: Alias, *, key_id: str | None) -> Change:
    return Change(
        action=action,
        resource=ResourceIdentifier("alias", alias.name),
        tenant_id=alias.tenant_id,
        key_id=key_id,
        details={"target": alias.target},
    )


def _alias_out(platform: Platform, alias: Alias) -> AliasOut:
    return AliasOut(
        name=alias.name,
        target=alias.target,
        deployment=platform.aliases.resolve(alias.tenant_id, alias.name),
        changed_at=alias.changed_at,
    )
