"""`tritiumd usage` and `tritiumd invoice preview`: what a tenant used and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_json, write_table, write_text
from tritium_platform.cli.common import (
    ConfigFile,
    DatabaseUrl,
    DataDir,
    parse_id,
    read_config,
    with_platform,
)

if TYPE_CHECKING:
    from tritium_platform.billing.model import InvoicePreview
    from tritium_platform.compose import Platform
    from tritium_platform.metering.model import UsageTotal
    from tritium_platform.values import CalendarMonth

invoice_group = typer.Typer(no_args_is_help=True, help="Invoices.")
TenantId = Annotated[str, typer.Argument(help="The tenant's id.")]
Period = Annotated[str | None, typer.Option(help="A month such as 2026-11 (UTC); by default this one.")]


@invoice_group.callback()
def _group() -> None:
    """Show invoices."""


def usage(
    tenant: TenantId,
    *,
    period: Period = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Show what a tenant used in a month."""
    tenant_id = parse_id(tenant)

    async def work(platform: Platform) -> tuple[CalendarMonth, list[UsageTotal]]:
        month = _month(platform, period)
        await platform.tenancy.get_tenant(tenant_id)
        totals = await platform.books.metering.totals(tenant_id, start=month.start, end=month.end)
        return month, list(totals)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    month, totals = with_platform(config, work)
    rows = [(total.meter.value, total.tier.value, str(total.quantity)) for total in totals]
    if output_format is OutputFormat.JSON:
        plain = [{"meter": meter, "tier": tier, "quantity": int(count)} for meter, tier, count in rows]
        write_json({"tenant_id": str(tenant_id), "period": str(month), "totals": plain})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{meter} {tier} {count}\n" for meter, tier, count in rows))
    else:
        write_table(f"Usage in {month}", ("meter", "tier", "quantity"), rows)


@invoice_group.command("preview")
def preview(
    tenant: TenantId,
    *,
    period: Period = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Show what a tenant's invoice for a month would say now."""
    tenant_id = parse_id(tenant)

    async def work(platform: Platform) -> InvoicePreview:
        month = _month(platform, period)
        await platform.tenancy.get_tenant(tenant_id)
        return await platform.books.billing.preview_invoice(tenant_id, period=month)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    made = with_platform(config, work)
    if output_format is OutputFormat.JSON:
        from tritium_platform.api.account import invoice_out  # noqa: PLC0415 - so that --help stays fast

        write_json(invoice_out(made).model_dump(mode="json"))
    elif output_format is OutputFormat.QUIET:
        write_text(f"{made.total}\n")
    else:
        rows = [
            (line.cost.meter.value, line.cost.tier.value, str(line.cost.quantity), str(line.amount))
            for line in made.lines
        ]
        columns = ("meter", "tier", "quantity", "amount")
        write_table(
            f"Invoice preview for {made.period}", columns, [*rows, ("total", "", "", str(made.total))]
        )


def _month(platform: Platform, period: str | None) -> CalendarMonth:
    from tritium_platform.values import CalendarMonth  # noqa: PLC0415 - so that --help stays fast

    return CalendarMonth.parse(period) if period else CalendarMonth.of(platform.clock.now())
