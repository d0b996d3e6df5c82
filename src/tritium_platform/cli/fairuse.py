"""`tritiumd fairuse`: what tenants of a running server used beside their shares, and what was done."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from tritium.cli.output import (
    FormatOption,
    OutputFormat,
    write_columns,
    write_facts,
    write_json,
    write_note,
    write_text,
)
from tritium_platform.cli.common import parse_id
from tritium_platform.cli.models import LOCAL, Url
from tritium_platform.cli.operator import AdminKey, operator_client

fairuse_group = typer.Typer(no_args_is_help=True, help="Who uses more than its share, and what follows.")
PLACE = "/api/v1/fair-use"


@fairuse_group.command("show")
def show(*, key: AdminKey = None, url: Url = LOCAL, output_format: FormatOption = OutputFormat.HUMAN) -> None:
    """Show what every tenant used in the last quarter of an hour beside its shares, and why that much."""
    found = operator_client(url, key=key).get(PLACE)
    if output_format is OutputFormat.JSON:
        write_json({"mode": found["mode"], "readings": found["readings"]})
        return
    readings = found["readings"]
    if output_format is OutputFormat.QUIET:
        write_text("".join(f"{each['tenant_id']} {each['rule']}\n" for each in readings if each["is_beyond"]))
        return
    rows = [
        (
            each["tenant_id"],
            each["rule"],
            str(each["used"]),
            f"{each['share']:.0f}",
            "beyond" if each["is_beyond"] else "within",
            each["explanation"],
        )
        for each in readings
    ]
    write_columns(f"Fair use (mode {found['mode']})", ("tenant", "rule", "used", "share", "", "why"), rows)


@fairuse_group.command("measures")
def list_measures(
    *, key: AdminKey = None, url: Url = LOCAL, output_format: FormatOption = OutputFormat.HUMAN
) -> None:
    """List the newest measures: notices, throttles and suspensions, of dry runs too."""
    measures = operator_client(url, key=key).get(PLACE)["measures"]
    if output_format is OutputFormat.JSON:
        write_json({"measures": measures})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{each['id']}\n" for each in measures))
    else:
        rows = [
            (each["id"], each["tenant_id"], each["action"], _state(each), each["ends_at"], each["reason"])
            for each in measures
        ]
        write_columns("Measures", ("measure", "tenant", "action", "state", "until", "reason"), rows)


@fairuse_group.command("lift")
def lift(
    measure: Annotated[str, typer.Argument(help="The measure's id.")],
    *,
    because: Annotated[str, typer.Option(help="Why; it is kept with the measure.")],
    key: AdminKey = None,
    url: Url = LOCAL,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Take a measure back: nothing follows from it any more."""
    name = str(parse_id(measure))
    lifted = operator_client(url, key=key).delete(f"{PLACE}/measures/{name}?because={quote(because)}", "")
    if output_format is OutputFormat.JSON:
        write_json(lifted)
    elif output_format is OutputFormat.QUIET:
        write_text(f"{lifted['id']}\n")
    else:
        write_facts("Lifted", [(field, str(value)) for field, value in lifted.items()])
        write_note("Every server follows within five seconds.")


def _state(measure: dict[str, Any]) -> str:
    if measure["lifted_at"]:
        return "lifted"
    return "dry run" if measure["is_dry_run"] else "taken"
