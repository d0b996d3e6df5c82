"""`tritiumd tenant` and `tritiumd key`: who may use the platform."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_facts, write_json, write_table, write_text
from tritium.errors import ValidationError
from tritium_platform.cli.common import (
    ConfigFile,
    DatabaseUrl,
    DataDir,
    parse_id,
    read_config,
    with_platform,
)

if TYPE_CHECKING:
    from tritium_platform.compose import Platform
    from tritium_platform.config import PlatformConfig
    from tritium_platform.tenancy.model import ApiKey, Scope, Tenant, TenantStatus

tenant_group = typer.Typer(no_args_is_help=True, help="The tenants.")
key_group = typer.Typer(no_args_is_help=True, help="The tenants' API keys.")
TenantId = Annotated[str, typer.Argument(help="The tenant's id.")]


class Tier(StrEnum):
    """The tiers, as the command line offers them."""

    DEVELOPER = "developer"
    TEAM = "team"
    BUSINESS = "business"


@tenant_group.command("create")
def create_tenant(
    organization_name: str,
    *,
    tier: Annotated[Tier, typer.Option(help="What the tenant pays for.")] = Tier.DEVELOPER,
    limit: Annotated[
        list[str] | None, typer.Option(help="Replace a limit of the tier: monthly_quota=5; repeatable.")
    ] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Create a tenant."""
    from tritium_platform.changes import tenant_changed
    from tritium_platform.tenancy.model import TenantTier

    overrides = _limits(limit or [])

    async def work(platform: Platform) -> Tenant:
        return await platform.gateway.change(
            lambda: platform.tenancy.create_tenant(
                organization_name=organization_name, tier=TenantTier(tier.value), limit_overrides=overrides
            ),
            describe=lambda tenant: tenant_changed("tenant.create", tenant),
        )

    tenant = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    _write_tenant(tenant, output_format)


@tenant_group.command("list")
def list_tenants(
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """List all tenants."""

    async def work(platform: Platform) -> list[Tenant]:
        return list(await platform.tenancy.list_tenants())

    tenants = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    if output_format is OutputFormat.JSON:
        write_json({"tenants": [_plain_tenant(tenant) for tenant in tenants]})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{tenant.id}\n" for tenant in tenants))
    else:
        rows = [(t.organization_name, t.tier.value, t.status.value, str(t.id)) for t in tenants]
        write_table("Tenants", ("organization", "tier", "status", "id"), rows)


@tenant_group.command("suspend")
def suspend_tenant(
    tenant: TenantId,
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Refuse a tenant's requests from now on."""
    from tritium_platform.tenancy.model import TenantStatus

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    _write_tenant(_set_status(config, tenant, TenantStatus.SUSPENDED), output_format)


@tenant_group.command("resume")
def resume_tenant(
    tenant: TenantId,
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Take a suspended tenant's requests again."""
    from tritium_platform.tenancy.model import TenantStatus

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    _write_tenant(_set_status(config, tenant, TenantStatus.ACTIVE), output_format)


@key_group.command("create")
def create_key(
    tenant: TenantId,
    *,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="inference, models, deployments, usage, metering, audit; all by default."),
    ] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Create a key and show it this once."""
    from tritium_platform.changes import key_changed
    from tritium_platform.tenancy.model import ALL_SCOPES

    tenant_id = parse_id(tenant)
    scopes = _scopes(scope) if scope else ALL_SCOPES

    async def work(platform: Platform) -> tuple[ApiKey, str]:
        return await platform.gateway.change(
            lambda: platform.tenancy.create_key(tenant_id, name=name, scopes=scopes),
            describe=lambda made: key_changed("api_key.create", key_id=made[0].id, tenant_id=tenant_id),
        )

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    key, plaintext = with_platform(config, work)
    if output_format is OutputFormat.JSON:
        write_json({**_plain_key(key), "key": plaintext})
    elif output_format is OutputFormat.QUIET:
        write_text(f"{plaintext}\n")
    else:
        write_facts("New key, shown this once", [("key", plaintext), ("id", key.id), ("name", key.name)])


@key_group.command("list")
def list_keys(
    tenant: TenantId,
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """List a tenant's keys; the secrets are not kept."""
    tenant_id = parse_id(tenant)

    async def work(platform: Platform) -> list[ApiKey]:
        await platform.tenancy.get_tenant(tenant_id)
        return list(await platform.tenancy.list_keys(tenant_id))

    keys = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    if output_format is OutputFormat.JSON:
        write_json({"keys": [_plain_key(key) for key in keys]})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{key.id}\n" for key in keys))
    else:
        rows = [(key.id, key.name, "revoked" if key.revoked_at else "active") for key in keys]
        write_table("Keys", ("id", "name", "state"), rows)


@key_group.command("revoke")
def revoke_key(
    tenant: TenantId,
    key: Annotated[str, typer.Argument(help="The key's id, the part after btn_live_.")],
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Refuse a key from now on, within a second in every process."""
    from tritium_platform.changes import key_changed

    tenant_id = parse_id(tenant)

    async def work(platform: Platform) -> None:
        await platform.gateway.change(
            lambda: platform.tenancy.revoke_key(key, tenant_id=tenant_id),
            describe=lambda _: key_changed("api_key.revoke", key_id=key, tenant_id=tenant_id),
        )

    with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    if output_format is OutputFormat.JSON:
        write_json({"id": key, "revoked": True})
    elif output_format is OutputFormat.HUMAN:
        write_text(f"The key {key} is revoked.\n")


def _set_status(config: PlatformConfig, tenant: str, status: TenantStatus) -> Tenant:
    from tritium_platform.changes import tenant_changed

    tenant_id = parse_id(tenant)

    async def work(platform: Platform) -> Tenant:
        return await platform.gateway.change(
            lambda: platform.tenancy.change_tenant(tenant_id, status=status),
            describe=lambda changed: tenant_changed("tenant.change", changed),
        )

    return with_platform(config, work)


def _write_tenant(tenant: Tenant, output_format: OutputFormat) -> None:
    if output_format is OutputFormat.JSON:
        write_json(_plain_tenant(tenant))
    elif output_format is OutputFormat.QUIET:
        write_text(f"{tenant.id}\n")
    else:
        facts = [("id", str(tenant.id)), ("tier", tenant.tier.value), ("status", tenant.status.value)]
        write_facts(tenant.organization_name, facts)


def _plain_tenant(tenant: Tenant) -> dict[str, Any]:
    return {
        "id": str(tenant.id),
        "organization_name": tenant.organization_name,
        "tier": tenant.tier.value,
        "status": tenant.status.value,
        "limit_overrides": dict(tenant.limit_overrides),
        "created_at": tenant.created_at.isoformat(),
    }


def _plain_key(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant_id": str(key.tenant_id),
        "name": key.name,
        "scopes": sorted(scope.value for scope in key.scopes),
        "created_at": key.created_at.isoformat(),
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }


def _limits(given: list[str]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for each in given:
        name, equals, number = each.partition("=")
        if not equals or not number.isdecimal():
            raise ValidationError(f"{each!r} is not a limit: write it as monthly_quota=5.", field="limit")
        limits[name] = int(number)
    return limits


def _scopes(given: list[str]) -> frozenset[Scope]:
    from tritium_platform.tenancy.model import Scope

    try:
        return frozenset(Scope(name) for name in given)
    except ValueError:
        choices = ", ".join(scope.value for scope in Scope)
        raise ValidationError(f"There is no such scope: choose from {choices}.", field="scope") from None
