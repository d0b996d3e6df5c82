"""`tritiumd usage`: what a tenant used, and uses that others counted from a file."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from tritium.cli.output import (
    FormatOption,
    OutputFormat,
    write_facts,
    write_json,
    write_note,
    write_table,
    write_text,
)
from tritium.errors import BitNetServiceError
from tritium_platform.cli.common import (
    SHOW,
    ConfigFile,
    DatabaseUrl,
    DataDir,
    ShowGroup,
    parse_id,
    read_config,
    with_platform,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tritium_platform.compose import Platform
    from tritium_platform.metering.event import ReportedEvent
    from tritium_platform.metering.model import UsageTotal
    from tritium_platform.values import CalendarMonth

AT_ONCE = 5_000
MOST_SHOWN = 100


usage_group = typer.Typer(cls=ShowGroup, no_args_is_help=True, help="What was used; `usage TENANT` shows it.")


@dataclass(slots=True)
class _Report:
    """What became of the lines of a file."""

    counts: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[int, str]] = field(default_factory=list)

    def refuse(self, line: int, error: BitNetServiceError) -> None:
        self.counts["refused"] += 1
        if len(self.refused) < MOST_SHOWN:
            self.refused.append((line, error.message))


@usage_group.command(SHOW)
def show(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    *,
    period: Annotated[
        str | None, typer.Option(help="A month such as 2026-11 (UTC); by default this one.")
    ] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Show what a tenant used in a month."""
    from tritium_platform.values import CalendarMonth

    tenant_id = parse_id(tenant)

    async def work(platform: Platform) -> tuple[CalendarMonth, list[UsageTotal]]:
        month = CalendarMonth.parse(period) if period else CalendarMonth.of(platform.clock.now())
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


@usage_group.command("ingest")
def ingest(
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(metavar="FILE", help="One event a line as JSON; - for stdin.")
    ],
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Count uses from a file, each once for ever: after an interruption run it again.

    An event is {"tenant_id", "source", "id", "meter", "quantity", "event_time", "dimensions"}. An id is any
    text that its source gives no other use; UUIDs of version 7 cost the database least.
    """
    report = _Report()

    async def work(platform: Platform) -> None:
        events = _events(file, report)
        while batch := list(islice(events, AT_ONCE)):
            await _count(platform, batch, report=report)

    with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    _write(report, output_format)
    if report.counts["refused"]:
        raise typer.Exit(1)


def _events(lines: Iterable[bytes], report: _Report) -> Iterator[tuple[int, ReportedEvent]]:
    from tritium_platform.api.event_json import read_event

    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            yield number, read_event(line)
        except BitNetServiceError as error:
            report.refuse(number, error)


async def _count(platform: Platform, batch: list[tuple[int, ReportedEvent]], *, report: _Report) -> None:
    from tritium_platform.metering.event import Sender

    events = [event for _, event in batch]
    named = {event.tenant_id for event in events if event.tenant_id is not None}
    sender = Sender(tiers=await platform.tenancy.tiers(named))
    outcomes = await platform.ingestion.ingest(events, sender=sender)
    for (number, _), outcome in zip(batch, outcomes, strict=True):
        if isinstance(outcome, BitNetServiceError):
            report.refuse(number, outcome)
        else:
            report.counts[outcome.value] += 1


def _write(report: _Report, output_format: OutputFormat) -> None:
    counts = {name: report.counts[name] for name in ("accepted", "duplicate", "deferred", "refused")}
    if output_format is OutputFormat.JSON:
        refused = [{"line": line, "detail": message} for line, message in report.refused]
        write_json({**counts, "lines": refused})
        return
    if output_format is OutputFormat.QUIET:
        write_text(f"{counts['accepted']}\n")
    else:
        write_facts("Counted", [(name, str(count)) for name, count in counts.items()])
    for line, message in report.refused:
        write_note(f"line {line}: {message}")
