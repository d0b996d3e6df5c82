"""`tritiumd usage series` and `summary`: what a tenant uses over time, and where its month is going."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

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
from tritium_platform.cli.common import ConfigFile, DatabaseUrl, DataDir, parse_id, read_config, with_platform

if TYPE_CHECKING:
    from tritium_platform.compose import Platform
    from tritium_platform.insight.analytics import UsagePoint

MOST = 10_000
TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")]


class By(StrEnum):
    """The steps of a series, as the command line offers them."""

    HOUR = "hour"
    DAY = "day"


class Group(StrEnum):
    """By what uses are told apart, as the command line offers it."""

    MODEL = "model"
    STATUS = "status"
    OPERATION = "operation"
    KEY = "key"
    TIER = "tier"
    DEVICE = "device"


def series(
    tenant: TenantId,
    *,
    by: Annotated[By, typer.Option(help="How long the parts are.")] = By.DAY,
    group: Annotated[Group | None, typer.Option(help="By what uses are told apart.")] = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="How many days, up to now.")] = 7,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Show what a tenant used by hour or day; its 10,000 first lines."""
    tenant_id = parse_id(tenant)

    async def work(platform: Platform) -> list[UsagePoint]:
        from tritium_platform.insight.analytics import Dimension, Step

        await platform.tenancy.get_tenant(tenant_id)
        now = platform.clock.now()
        points = await platform.analytics.series(
            tenant_id,
            start=now - timedelta(days=days),
            end=now,
            step=Step(by.value),
            dimension=Dimension(group.value) if group else None,
            limit=MOST,
        )
        return list(points)

    points = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    if output_format is OutputFormat.JSON:
        from tritium_platform.api.insight_schemas import point_out

        write_json({"points": [point_out(each).model_dump(mode="json") for each in points]})
        return
    rows = [
        (each.start.strftime("%Y-%m-%d %H:%M"), each.name, str(each.uses), str(each.tokens))
        for each in points
    ]
    if output_format is OutputFormat.QUIET:
        write_text("".join(" ".join(filter(None, row)) + "\n" for row in rows))
    else:
        write_columns(f"Usage by the {by.value}", ("start (UTC)", group or "all", "uses", "tokens"), rows)


def summary(
    tenant: TenantId,
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Show a tenant's last seven days, and where its month's spending is going."""
    tenant_id = parse_id(tenant)

    async def work(platform: Platform) -> dict[str, Any]:
        from tritium_platform.api.insight_schemas import summary_out

        await platform.tenancy.get_tenant(tenant_id)
        summed = await platform.analytics.summarize(tenant_id)
        spend = await platform.spending.status(tenant_id)
        return summary_out(summed, spend=spend).model_dump(mode="json")

    told = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    if output_format is OutputFormat.JSON:
        write_json(told)
    elif output_format is OutputFormat.QUIET:
        write_text(f"{told['uses']['this_week']}\n")
    else:
        _write(told)


def _write(told: dict[str, Any]) -> None:
    month, cap = told["month_end"], told["spend_cap"]
    latency = " / ".join(f"{name} {value} ms" for name, value in told["latency_ms"].items())
    outcomes = ", ".join(f"{count} {kind}" for kind, count in told["outcomes"].items())
    facts = [
        ("uses", _grown(told["uses"])),
        ("tokens", _grown(told["tokens"])),
        ("requests", outcomes),
        ("answered within", latency),
        ("month", f"{month['period']}: expected {month['expected'] or '-'} ({month['reason']})"),
        ("of the cap", _percent(month["cap_share_ppm"]) + f" of {cap['limit']}" if cap else ""),
    ]
    write_facts(f"Seven days until {told['as_of']}", facts)
    for title, name in (("Keys", "top_keys"), ("Models", "top_models")):
        if told[name]:
            write_table(
                title, ("name", "uses"), [(each["name"] or "-", str(each["uses"])) for each in told[name]]
            )


def _grown(growth: dict[str, Any]) -> str:
    return f"{growth['this_week']} ({_percent(growth['growth_ppm'])} on the week before)"


def _percent(parts_per_million: int | None) -> str:
    return "-" if parts_per_million is None else f"{parts_per_million / 10_000:.1f} %"
