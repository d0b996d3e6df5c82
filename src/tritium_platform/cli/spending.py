"""`tritiumd spend`: what tenants of a running server may spend in a month."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_facts, write_json, write_text
from tritium_platform.cli.common import parse_id
from tritium_platform.cli.models import LOCAL, Url
from tritium_platform.cli.operator import AdminKey, operator_client

spend_group = typer.Typer(no_args_is_help=True, help="What tenants may spend in a month.")
TenantId = Annotated[str, typer.Argument(help="The tenant's id.")]


class Mode(StrEnum):
    """The modes of a cap, as the command line offers them."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


@spend_group.command("show")
def show(
    tenant: TenantId,
    *,
    key: AdminKey = None,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Show a tenant's cap, what is left of it this month, and the alerts."""
    _write(operator_client(url, key=key).get(_place(tenant)), output_format=output_format)


@spend_group.command("cap")
def cap(
    tenant: TenantId,
    amount_minor: Annotated[int, typer.Argument(help="The cap in minor units (cents), above 0.")],
    currency: Annotated[str, typer.Argument(help="The currency of the price list, such as USD.")],
    *,
    mode: Annotated[
        Mode, typer.Option(help="enforce refuses; shadow counts what it would refuse.")
    ] = Mode.ENFORCE,
    key: AdminKey = None,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Cap what a tenant spends in a month, from the next request on."""
    wish = {"amount_minor": amount_minor, "currency": currency, "mode": mode.value}
    _write(operator_client(url, key=key).put(_place(tenant), "", wish), output_format=output_format)


@spend_group.command("uncap")
def uncap(tenant: TenantId, *, key: AdminKey = None, url: Url = LOCAL) -> None:
    """Take a tenant's cap away."""
    operator_client(url, key=key).delete(_place(tenant), "")


def _place(tenant: str) -> str:
    return f"/api/v1/tenants/{parse_id(tenant)}/spend-cap"


def _write(status: dict[str, Any], *, output_format: OutputFormat) -> None:
    if output_format is OutputFormat.JSON:
        write_json(status)
    elif output_format is OutputFormat.QUIET:
        write_text(f"{status['remaining_minor']}\n")
    else:
        alerts = ", ".join(f"{each['threshold']} % at {each['reached_at']}" for each in status["alerts"])
        facts = [
            ("month", status["period"]),
            ("cap", f"{status['limit']} ({status['mode']})"),
            ("remaining", status["remaining"]),
            ("alerts", alerts or "none"),
            ("would have refused", str(status["would_refuse"])),
        ]
        write_facts("Spend", facts)
