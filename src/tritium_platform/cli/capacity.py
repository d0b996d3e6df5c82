"""`tritiumd capacity`: who has what of a running server's capacity, why, and what load is to come."""

from __future__ import annotations

import typer

from tritium.cli.output import (
    FormatOption,
    OutputFormat,
    readable_bytes,
    write_columns,
    write_json,
    write_text,
)
from tritium_platform.cli.models import LOCAL, Url
from tritium_platform.cli.operator import AdminKey, operator_client

capacity_group = typer.Typer(no_args_is_help=True, help="Who has what of the capacity, and what is to come.")


@capacity_group.command("memory")
def memory(
    *, key: AdminKey = None, url: Url = LOCAL, output_format: FormatOption = OutputFormat.HUMAN
) -> None:
    """Show who has how much of the engines' memory, and what of it is its fair share."""
    found = operator_client(url, key=key).get("/api/v1/capacity/memory")
    if output_format is OutputFormat.JSON:
        write_json(found)
        return
    if output_format is OutputFormat.QUIET:
        write_text("".join(f"{each['tenant_id']} {each['used']}\n" for each in found["tenants"]))
        return
    rows = [
        (
            each["tenant_id"],
            str(each["weight"]),
            *(readable_bytes(each[name]) for name in ("used", "wanted", "pinned")),
            "" if each["share"] is None else readable_bytes(each["share"]),
            each["why"] or "",
        )
        for each in found["tenants"]
    ]
    budget = "no budget" if found["budget"] is None else f"of {readable_bytes(found['budget'])}"
    title = f"Memory of the engines: {readable_bytes(found['used'])} ({budget})"
    write_columns(title, ("tenant", "weight", "used", "wanted", "pinned", "share", "why"), rows)


@capacity_group.command("forecast")
def forecast(
    *, key: AdminKey = None, url: Url = LOCAL, output_format: FormatOption = OutputFormat.HUMAN
) -> None:
    """Show what load is expected in the next 24 hours; nothing follows from it by itself."""
    found = operator_client(url, key=key).get("/api/v1/capacity/forecast")
    if output_format is OutputFormat.JSON:
        write_json(found)
        return
    if output_format is OutputFormat.QUIET:
        write_text(
            "".join(
                f"{each['model']} {each['tier']} {each['replicas_wanted']}\n" for each in found["forecasts"]
            )
        )
        return
    rows = [
        (
            each["model"],
            each["tier"],
            f"{max(each['expected']):.0f}" if each["expected"] else "",
            f"{max(each['high']):.0f}" if each["high"] else "",
            each["peak_at"] or "",
            f"{each['replicas']} / {each['replicas_wanted']}",
            each["published"] or "none",
            each["reason"],
        )
        for each in found["forecasts"]
    ]
    columns = ("model", "tier", "peak", "9 of 10", "at", "engines", "forecast by", "why")
    write_columns("Tokens in the busiest of the next 24 hours", columns, rows)
