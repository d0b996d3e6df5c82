"""`tritiumd invoice pdf|xml|events|focus|buyer` and `tritiumd credit-note`: what is printed of the books."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_facts, write_json, write_table, write_text
from tritium.errors import ValidationError
from tritium_platform.cli.billing import (
    OPERATOR,
    InvoiceId,
    TenantId,
    invoice_group,
    show,
    write_invoices,
)
from tritium_platform.cli.common import (
    ConfigFile,
    DatabaseUrl,
    DataDir,
    parse_id,
    read_config,
    with_platform,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from tritium_platform.billing.invoice import Invoice, InvoiceDocument
    from tritium_platform.billing.line_events import LineEvent
    from tritium_platform.billing.party import Party
    from tritium_platform.compose import Platform
    from tritium_platform.config import PlatformConfig

credit_note_group = typer.Typer(no_args_is_help=True, help="Credit notes.")
EVENTS_AT_ONCE = 1000
Output = Annotated[
    Path | None, typer.Option(help="Where to write it; by default its number.", dir_okay=False)
]


@invoice_group.command("pdf")
def pdf(
    invoice: InvoiceId,
    *,
    output: Output = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Print a finalized invoice or credit note as PDF/A-3, the same bytes every time."""

    async def make(platform: Platform, document: InvoiceDocument) -> bytes:
        return await platform.printer.pdf(document)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    _write_file(parse_id(invoice), make, config=config, output=output, suffix="pdf")


@invoice_group.command("xml")
def xml(
    invoice: InvoiceId,
    *,
    output: Output = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Write a finalized invoice or credit note as EN 16931 XML (Factur-X)."""

    async def make(platform: Platform, document: InvoiceDocument) -> bytes:
        return await platform.printer.xml(document)

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    _write_file(parse_id(invoice), make, config=config, output=output, suffix="xml")


@invoice_group.command("events")
def events(
    invoice: InvoiceId,
    *,
    line: Annotated[int, typer.Option(min=1, help="The number of the line.")] = 1,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Show every use behind a line of a finalized invoice or credit note."""
    invoice_id = parse_id(invoice)

    async def work(platform: Platform) -> list[LineEvent]:
        found, after = await platform.desk.invoices.get(invoice_id), None
        made: list[LineEvent] = []
        while True:
            page, after = await platform.desk.invoices.line_events(
                found, number=line, limit=EVENTS_AT_ONCE, after=after
            )
            made += page
            if after is None:
                return made

    found = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    rows = [(each.occurred_at, each.source, each.event_id, str(each.quantity)) for each in found]
    if output_format is OutputFormat.JSON:
        names = ("occurred_at", "source", "event_id", "quantity")
        write_json({"events": [dict(zip(names, row, strict=True)) for row in rows]})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{each.source} {each.event_id}\n" for each in found))
    else:
        title = f"{len(found)} uses, {sum(each.quantity for each in found)} units"
        write_table(title, ("at", "source", "event", "quantity"), rows)


@invoice_group.command("focus")
def focus(
    *,
    period: Annotated[str, typer.Option(help="A month such as 2026-11 (UTC).")],
    tenant: Annotated[str | None, typer.Option(help="Only those of a tenant, by its id.")] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Write cost and usage of a month, as finalized documents say it, as FOCUS 1.2 (CSV)."""
    from tritium_platform.billing.focus import focus_csv, focus_header
    from tritium_platform.values import CalendarMonth

    tenant_id, month = parse_id(tenant) if tenant else None, CalendarMonth.parse(period)

    async def work(platform: Platform) -> None:
        write_text(focus_header())
        async for body in platform.desk.invoices.documents(tenant_id=tenant_id, period=month):
            write_text(focus_csv(body))

    with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)


@invoice_group.command("buyer")
def buyer(
    tenant: TenantId,
    *,
    file: Annotated[
        Path | None,
        typer.Option(help="JSON: name, street (lines), post_code, city, country, email, reference."),
    ] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Show who a tenant is on its invoices, or say it from a file."""
    tenant_id = parse_id(tenant)
    told = _read_buyer(file) if file else None

    async def work(platform: Platform) -> Party | None:
        await platform.tenancy.get_tenant(tenant_id)
        if told is not None:
            await platform.desk.plans.name_buyer(tenant_id, told, actor=OPERATOR)
        return await platform.desk.plans.buyer(tenant_id)

    found = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    plain = found.to_dict() if found else {}
    if output_format is OutputFormat.JSON:
        write_json(plain)
    else:
        facts = [
            (name, ", ".join(value) if isinstance(value, list) else value) for name, value in plain.items()
        ]
        write_facts("Nobody has said it yet." if found is None else "", facts)


@credit_note_group.command("create")
def create_credit_note(
    invoice: InvoiceId,
    *,
    line: Annotated[list[str], typer.Option(help="NUMBER=AMOUNT: minor units to take off a line, net.")],
    reason: Annotated[str, typer.Option(help="Why; it stands on the credit note.")],
    key: Annotated[str | None, typer.Option(help="The same key again writes no second one.")] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Write a credit note over lines of an invoice."""
    invoice_id, amounts = parse_id(invoice), _amounts(line)

    async def work(platform: Platform) -> Invoice:
        return await platform.desk.credit_notes.credit(
            invoice_id, amounts=amounts, reason=reason, key=key, actor=OPERATOR
        )

    made = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    write_invoices([made], output_format=output_format)


@credit_note_group.command("list")
def list_credit_notes(
    invoice: InvoiceId,
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """List the credit notes of an invoice, oldest first."""
    invoice_id = parse_id(invoice)

    async def work(platform: Platform) -> Sequence[Invoice]:
        found = await platform.desk.invoices.get(invoice_id)
        return await platform.desk.books.invoices.credit_notes(found.id)

    found = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    write_invoices(found, output_format=output_format)


credit_note_group.command("show")(show)
credit_note_group.command("pdf")(pdf)
credit_note_group.command("xml")(xml)


def _write_file(
    invoice_id: UUID,
    make: Callable[[Platform, InvoiceDocument], Awaitable[bytes]],
    *,
    config: PlatformConfig,
    output: Path | None,
    suffix: str,
) -> None:
    from tritium_platform.errors import NotFoundError

    async def work(platform: Platform) -> tuple[str, bytes]:
        found = await platform.desk.invoices.get(invoice_id)
        document = await platform.desk.books.invoices.document(found.id)
        if document is None:
            raise NotFoundError("A draft has no document yet.")
        return document.number, await make(platform, document)

    number, made = with_platform(config, work)
    path = output or Path(f"{number}.{suffix}")
    try:
        path.write_bytes(made)
    except OSError as error:
        raise ValidationError(f"{path} cannot be written: {error.strerror}.") from error
    write_text(f"{path}\n")


def _amounts(lines: Sequence[str]) -> dict[int, int]:
    amounts: dict[int, int] = {}
    for each in lines:
        number, equals, amount = each.partition("=")
        if not (equals and number.isascii() and number.isdigit() and amount.isascii() and amount.isdigit()):
            raise ValidationError(f"{each[:40]!r} is no line and amount: write it as 2=150.")
        if int(number) in amounts:
            raise ValidationError(f"Line {number} is named twice.")
        amounts[int(number)] = int(amount)
    return amounts


def _read_buyer(file: Path) -> Party:
    from tritium_platform.billing.party import Party

    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        return Party.of({"street": [], **plain})
    except OSError as error:
        raise ValidationError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValidationError(f"{file} does not name a buyer: {error}.") from error
