"""`tritiumd health`: how customers are, and whether what was kept of it follows from the facts."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tritium.cli.output import (
    FormatOption,
    OutputFormat,
    write_columns,
    write_facts,
    write_json,
    write_table,
    write_text,
)
from tritium.errors import ValidationError
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
    from uuid import UUID

    from tritium_platform.compose import Platform
    from tritium_platform.insight.score import HealthScore
    from tritium_platform.insight.scores import Deviation

DIFFERS = 1
AT_ONCE = 400
# Beyond, arithmetic with moments ends.
YEARS = range(2000, 9000)
TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")]
AsOf = Annotated[
    str | None,
    typer.Option("--as-of", help="A full hour such as 2026-11-30T00:00Z; by default the end of this one."),
]

health_group = typer.Typer(
    cls=ShowGroup, no_args_is_help=True, help="How customers are; `health TENANT` shows one."
)


@health_group.command(SHOW)
def show(
    tenant: TenantId,
    *,
    as_of: AsOf = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Show a tenant's health with all that it follows from."""
    from tritium_platform.api.insight_schemas import health_out

    tenant_id, moment = parse_id(tenant), _hour(as_of)

    async def work(platform: Platform) -> HealthScore:
        await platform.tenancy.get_tenant(tenant_id)
        return await platform.scores.score(tenant_id, as_of=moment)

    scored = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    if output_format is OutputFormat.JSON:
        write_json(health_out(scored).model_dump(mode="json"))
    elif output_format is OutputFormat.QUIET:
        write_text(f"{_or_dash(scored.score)}\n")
    else:
        rows = [
            (each.name, f"{_or_dash(each.figure)} {each.unit}", _or_dash(each.value), str(each.weight))
            for each in scored.components
        ]
        grade = scored.grade.value.replace("_", " ") if scored.grade else "never answered"
        title = f"Health {_or_dash(scored.score)} ({grade}), definition {scored.definition}"
        write_table(title, ("component", "figure", "worth of 1000", "weight"), rows)


@health_group.command("list")
def list_scores(
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """List all tenants with their health, the worst first."""

    async def work(platform: Platform) -> list[tuple[str, HealthScore]]:
        tenants = await platform.tenancy.list_tenants()
        return [(each.organization_name, await platform.scores.score(each.id)) for each in tenants]

    found = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    found.sort(key=lambda each: (each[1].score is None, each[1].score, each[0]))
    rows = [
        (
            str(scored.tenant_id),
            name,
            _or_dash(scored.score),
            scored.grade.value if scored.grade else "-",
            scored.weakest.name if scored.weakest else "-",
        )
        for name, scored in found
    ]
    columns = ("tenant", "name", "score", "grade", "weakest")
    if output_format is OutputFormat.JSON:
        plain = [
            {**dict(zip(columns, row, strict=True)), "score": scored.score}
            for row, (_, scored) in zip(rows, found, strict=True)
        ]
        write_json({"customers": plain})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{row[0]} {row[2]}\n" for row in rows))
    else:
        write_columns("Customers", columns, rows)


@health_group.command("keep")
def keep(
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Keep every tenant's score of the beginning of this day (UTC), as the worker does; twice is once."""

    async def work(platform: Platform) -> int:
        return await platform.scores.keep_day()

    kept = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    if output_format is OutputFormat.JSON:
        write_json({"kept": kept})
    elif output_format is OutputFormat.QUIET:
        write_text(f"{kept}\n")
    else:
        write_facts("Health", [("kept", str(kept))])


@health_group.command("recompute")
def recompute(
    tenant: TenantId,
    *,
    as_of: Annotated[str | None, typer.Option(help="A kept hour; by default all that are kept.")] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Make a tenant's kept scores again from the facts; exit 1 if something comes out otherwise."""
    tenant_id, moment = parse_id(tenant), _hour(as_of)

    async def work(platform: Platform) -> tuple[int, list[tuple[datetime, Deviation]]]:
        await platform.tenancy.get_tenant(tenant_id)
        hours = [moment] if moment else await _kept_hours(platform, tenant_id)
        found = [
            (hour, each) for hour in hours for each in await platform.scores.recompute(tenant_id, as_of=hour)
        ]
        return len(hours), found

    count, found = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    _write_deviations(count, found, output_format=output_format)
    if found:
        raise typer.Exit(DIFFERS)


async def _kept_hours(platform: Platform, tenant_id: UUID) -> list[datetime]:
    hours: list[datetime] = []
    while page := await platform.scores.history(
        tenant_id, limit=AT_ONCE, before=hours[-1] if hours else None
    ):
        hours += [each.as_of for each in page]
    return hours


def _write_deviations(
    count: int, found: list[tuple[datetime, Deviation]], *, output_format: OutputFormat
) -> None:
    rows = [(hour.isoformat(), each.what, each.kept, each.now) for hour, each in found]
    columns = ("as_of", "what", "kept", "now")
    if output_format is OutputFormat.JSON:
        write_json(
            {"recomputed": count, "differences": [dict(zip(columns, row, strict=True)) for row in rows]}
        )
    elif output_format is OutputFormat.QUIET:
        write_text(f"{len(rows)}\n")
    else:
        write_facts("Health", [("made again", str(count)), ("differences", str(len(rows)))])
        if rows:
            write_columns("Differences", columns, rows)


def _hour(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.year not in YEARS:
            raise ValueError
    except ValueError:
        raise ValidationError(f"{text[:40]!r} is not an hour: write it as 2026-11-30T00:00Z.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)
