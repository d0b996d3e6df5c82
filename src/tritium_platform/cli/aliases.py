"""`tritiumd alias`: names that stand for a tenant's deployments, through a running server."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_facts, write_json, write_table, write_text
from tritium_platform.cli.client import ServerClient
from tritium_platform.cli.common import parse_id
from tritium_platform.cli.models import LOCAL, Key, Url

alias_group = typer.Typer(no_args_is_help=True, help="Names that stand for a tenant's deployments.")
AliasName = Annotated[str, typer.Argument(help="The alias.")]
Tenant = Annotated[
    str | None,
    typer.Option("--tenant", help="The tenant's id, if the key is the operator's and not the tenant's."),
]


@alias_group.command("set")
def set_alias(
    alias: AliasName,
    target: Annotated[str, typer.Argument(help="The name of a deployment, or of another alias.")],
    *,
    key: Key,
    tenant: Tenant = None,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Point an alias, new or not, at a deployment: requests that arrive from now on go there."""
    made = ServerClient(url, key=key).put(_address(tenant) + "/", alias, {"target": target})
    _write_alias(made, output_format, title="Set")


@alias_group.command("list")
def list_aliases(
    *, key: Key, tenant: Tenant = None, url: Url = LOCAL, output_format: FormatOption = OutputFormat.HUMAN
) -> None:
    """List the aliases."""
    found = ServerClient(url, key=key).get(_address(tenant))
    if output_format is OutputFormat.JSON:
        write_json({"aliases": found})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{each['name']}\n" for each in found))
    else:
        rows = [(each["name"], each["target"], each["deployment"]) for each in found]
        write_table("Aliases", ("name", "target", "deployment"), rows)


@alias_group.command("delete")
def delete_alias(
    alias: AliasName,
    *,
    key: Key,
    tenant: Tenant = None,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Forget an alias."""
    ServerClient(url, key=key).delete(_address(tenant) + "/", alias)
    _write_alias({"name": alias, "deleted": True}, output_format, title="Deleted")


def _address(tenant: str | None) -> str:
    return "/api/v1/aliases" if tenant is None else f"/api/v1/tenants/{parse_id(tenant)}/aliases"


def _write_alias(alias: dict[str, Any], output_format: OutputFormat, *, title: str) -> None:
    if output_format is OutputFormat.JSON:
        write_json(alias)
    elif output_format is OutputFormat.QUIET:
        write_text(f"{alias['name']}\n")
    else:
        write_facts(title, [(name, str(value)) for name, value in alias.items()])
