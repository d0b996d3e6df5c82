"""`tritiumd credit`: prepaid credit, which pays invoices before money does."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_json, write_table, write_text
from tritium_platform.cli.billing import MOST_SHOWN, OPERATOR, TenantId
from tritium_platform.cli.common import (
    ConfigFile,
    DatabaseUrl,
    DataDir,
    parse_id,
    read_config,
    with_platform,
)
from tritium_platform.cli.payments import Key  # noqa: TC001 - typer reads it
from tritium_platform.cli.prices import parse_moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.billing.invoice import CreditGrant
    from tritium_platform.compose import Platform

credit_group = typer.Typer(no_args_is_help=True, help="Prepaid credit.")


@credit_group.command("grant")
def grant(
    tenant: TenantId,
    amount_minor: Annotated[int, typer.Argument(min=1, help="Minor units, such as cents.")],
    currency: Annotated[str, typer.Argument(help="Such as EUR.")],
    *,
    reason: Annotated[str, typer.Option(help="What it was granted for.")],
    priority: Annotated[int, typer.Option(min=0, help="What is smaller pays first.")] = 0,
    expires_at: Annotated[
        str | None, typer.Option(help="Until when it pays, such as 2027-01-01T00:00:00+00:00.")
    ] = None,
    key: Key = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Grant prepaid credit that was paid for."""
    tenant_id = parse_id(tenant)
    until = parse_moment(expires_at) if expires_at else None

    async def work(platform: Platform) -> CreditGrant:
        await platform.tenancy.get_tenant(tenant_id)
        return await platform.desk.grants.grant(
            tenant_id,
            currency=currency,
            amount_minor=amount_minor,
            reason=reason,
            priority=priority,
            expires_at=until,
            key=key,
            actor=OPERATOR,
        )

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    _write_grants([with_platform(config, work)], output_format=output_format)


@credit_group.command("list")
def list_grants(
    tenant: TenantId,
    *,
    after: Annotated[str | None, typer.Option(help="Only newer ones than this grant.")] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """List a tenant's grants and what is left of each, oldest first, up to 100."""
    tenant_id, newer = parse_id(tenant), parse_id(after) if after else None

    async def work(platform: Platform) -> Sequence[CreditGrant]:
        await platform.tenancy.get_tenant(tenant_id)
        return await platform.desk.grants.list(tenant_id, limit=MOST_SHOWN, after=newer)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    _write_grants(with_platform(config, work), output_format=output_format)


def _write_grants(grants: Sequence[CreditGrant], *, output_format: OutputFormat) -> None:
    from tritium_platform.values import Money

    if output_format is OutputFormat.JSON:
        from tritium_platform.api.money_schemas import credit_out

        write_json({"credits": [credit_out(each).model_dump(mode="json") for each in grants]})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{each.id}\n" for each in grants))
    else:
        rows = [
            (
                str(each.id),
                str(Money(each.amount_minor, each.currency)),
                str(Money(each.remaining_minor, each.currency)),
                f"{each.expires_at:%Y-%m-%d}" if each.expires_at else "never",
                str(each.priority),
                each.reason,
            )
            for each in grants
        ]
        write_table("Credit", ("id", "granted", "left", "expires", "priority", "reason"), rows)
