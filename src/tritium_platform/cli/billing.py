"""`tritiumd invoice`: what use costs, and what was billed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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
    from collections.abc import Sequence

    from tritium_platform.billing.invoice import Invoice
    from tritium_platform.billing.invoices import Preview
    from tritium_platform.compose import Platform
    from tritium_platform.values import CalendarMonth

invoice_group = typer.Typer(no_args_is_help=True, help="Invoices.")
OPERATOR = "operator"
MOST_SHOWN = 100
InvoiceId = Annotated[str, typer.Argument(help="The invoice's id.")]
TenantId = Annotated[str, typer.Argument(help="The tenant's id.")]
Period = Annotated[str | None, typer.Option(help="A month such as 2026-11 (UTC); by default this one.")]


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

    async def work(platform: Platform) -> Preview:
        month = _month(platform, period)
        await platform.tenancy.get_tenant(tenant_id)
        return await platform.desk.invoices.preview(tenant_id, period=month)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    made = with_platform(config, work)
    head, total = made.invoice, str(made.invoice.money(made.total_minor))
    if output_format is OutputFormat.JSON:
        from tritium_platform.api.account import preview_out  # noqa: PLC0415 - so that --help stays fast

        write_json(preview_out(made, at=head.created_at).model_dump(mode="json"))
    elif output_format is OutputFormat.QUIET:
        write_text(f"{total}\n")
    else:
        rows = [
            (
                _when(str(each.month), each.interval.start.isoformat() if each.interval else None),
                " ".join([each.line.charge, *each.line.cell]),
                str(each.line.quantity),
                str(head.money(each.line.net)),
                str(head.money(each.line.tax)),
            )
            for each in made.lines
        ]
        columns = ("month", "charge", "quantity", "net", "tax")
        write_table(f"Invoice preview for {head.period}: {total}", columns, rows)


@invoice_group.command("generate")
def generate(
    tenant: TenantId,
    *,
    period: Annotated[str, typer.Option(help="A month such as 2026-11 (UTC).")],
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Make the drafts of a tenant's month; those that exist already are not made again."""
    tenant_id = parse_id(tenant)

    async def work(platform: Platform) -> list[Invoice]:
        await platform.tenancy.get_tenant(tenant_id)
        month = _month(platform, period)
        return list(await platform.desk.invoices.generate(tenant_id, period=month, actor=OPERATOR))

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    write_invoices(with_platform(config, work), output_format=output_format)


@invoice_group.command("list")
def list_invoices(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only those of a tenant, by its id.")] = None,
    after: Annotated[str | None, typer.Option(help="Only older ones than this invoice.")] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """List invoices, newest first, up to 100."""
    tenant_id = parse_id(tenant) if tenant else None
    older = parse_id(after) if after else None

    async def work(platform: Platform) -> list[Invoice]:
        return list(await platform.desk.invoices.list(tenant_id=tenant_id, limit=MOST_SHOWN, after=older))

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    write_invoices(with_platform(config, work), output_format=output_format)


@invoice_group.command("show")
def show(
    invoice: InvoiceId,
    *,
    as_csv: Annotated[bool, typer.Option("--csv", help="The lines as CSV.")] = False,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Show an invoice: of a draft what it would say now, else its document."""
    invoice_id = parse_id(invoice)

    async def work(platform: Platform) -> tuple[Invoice, dict[str, Any]]:
        found = await platform.desk.invoices.get(invoice_id)
        return found, await platform.desk.invoices.body(found)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    found, body = with_platform(config, work)
    if as_csv:
        from tritium_platform.billing.export import write_csv  # noqa: PLC0415 - so that --help stays fast

        write_text(write_csv(body))
    elif output_format is OutputFormat.JSON:
        write_json(body)
    elif output_format is OutputFormat.QUIET:
        write_text(f"{found.money(body['total_minor'])}\n")
    else:
        rows = [
            (
                _when(line["period"], line.get("starts_at")),
                " ".join([line["charge"], *line.get("cell", [])]),
                line.get("quantity", ""),
                str(found.money(line["net_minor"])),
                str(found.money(line["tax_minor"])),
            )
            for line in body["lines"]
        ]
        totals = ("", "total", "", str(found.money(body["net_minor"])), str(found.money(body["tax_minor"])))
        title = f"{found.number or 'Draft'} for {found.period}: {found.status.value}"
        write_table(title, ("month", "charge", "quantity", "net", "tax"), [*rows, totals])


@invoice_group.command("finalize")
def finalize(
    invoice: InvoiceId,
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Finalize a draft: number, document, signature, journal; it never changes after that."""
    invoice_id = parse_id(invoice)

    async def work(platform: Platform) -> Invoice:
        return await platform.desk.invoices.finalize(invoice_id, actor=OPERATOR)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    write_invoices([with_platform(config, work)], output_format=output_format)


@invoice_group.command("void")
def void(
    invoice: InvoiceId,
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Void an invoice of which nothing is paid; its uses are billed again with the next draft."""
    invoice_id = parse_id(invoice)

    async def work(platform: Platform) -> Invoice:
        return await platform.desk.settlement.void(invoice_id, actor=OPERATOR)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    write_invoices([with_platform(config, work)], output_format=output_format)


@invoice_group.command("write-off")
def write_off(
    invoice: InvoiceId,
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Give up what is open of an invoice: it is uncollectible from then on."""
    invoice_id = parse_id(invoice)

    async def work(platform: Platform) -> Invoice:
        return await platform.desk.settlement.write_off(invoice_id, actor=OPERATOR)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    write_invoices([with_platform(config, work)], output_format=output_format)


def write_invoices(invoices: Sequence[Invoice], *, output_format: OutputFormat) -> None:
    """Write heads of invoices or credit notes to stdout."""
    if output_format is OutputFormat.JSON:
        from tritium_platform.api.money_schemas import invoice_out  # noqa: PLC0415 - so that --help stays fast

        write_json({"invoices": [invoice_out(each).model_dump(mode="json") for each in invoices]})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{each.id}\n" for each in invoices))
    else:
        rows = [
            (
                str(each.id),
                each.number or "",
                str(each.period),
                each.status.value,
                str(each.money(each.total_minor)),
                str(each.money(each.open_minor)),
            )
            for each in invoices
        ]
        write_table("Invoices", ("id", "number", "month", "status", "total", "open"), rows)


def _when(period: str, starts_at: str | None) -> str:
    """Return the month of a line, or from when on in it the line's plan holds."""
    return period if starts_at is None else f"{starts_at[:16].replace('T', ' ')} on"


def _month(platform: Platform, period: str | None) -> CalendarMonth:
    from tritium_platform.values import CalendarMonth  # noqa: PLC0415 - so that --help stays fast

    return CalendarMonth.parse(period) if period else CalendarMonth.of(platform.clock.now())
