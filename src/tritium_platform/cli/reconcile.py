"""`tritiumd reconcile`: compare the books with themselves; `reconciliations`: what that found before."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

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
from tritium_platform.cli.billing import MOST_SHOWN
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

    from tritium_platform.billing.reconciliation.model import ReconciliationRun
    from tritium_platform.compose import Platform

DIFFERS = 1


def reconcile(
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Compare uses, counters, invoice lines, journal and payments; exit 1 if they contradict each other."""

    async def work(platform: Platform) -> ReconciliationRun:
        return await platform.reconciliation.run()

    run = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    if output_format is OutputFormat.JSON:
        from tritium_platform.api.reconciliation import reconciliation_out

        write_json(reconciliation_out(run).model_dump(mode="json"))
    elif output_format is OutputFormat.QUIET:
        write_text(f"{run.num_differences}\n")
    else:
        _write(run)
    if run.num_differences:
        raise typer.Exit(DIFFERS)


def list_runs(
    *,
    after: Annotated[str | None, typer.Option(help="Only older ones than this run.")] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """List what earlier comparisons found, newest first, up to 100."""
    older = parse_id(after) if after else None

    async def work(platform: Platform) -> Sequence[ReconciliationRun]:
        return await platform.reconciliation.recent(limit=MOST_SHOWN, after=older)

    runs = with_platform(read_config(config_file, data_dir=data_dir, database_url=database_url), work)
    if output_format is OutputFormat.JSON:
        from tritium_platform.api.reconciliation import reconciliation_out

        write_json({"reconciliations": [reconciliation_out(run).model_dump(mode="json") for run in runs]})
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{run.id}\n" for run in runs))
    else:
        rows = [
            (str(run.id), f"{run.finished_at:%Y-%m-%d %H:%M:%S}", str(run.num_differences)) for run in runs
        ]
        write_table("Reconciliations", ("id", "finished (UTC)", "differences"), rows)


def _write(run: ReconciliationRun) -> None:
    facts = [(name.replace("_", " "), str(count)) for name, count in run.counted.items()]
    write_facts("Looked at", [*facts, ("differences", str(run.num_differences))])
    if run.differences:
        rows = [
            (
                each.check.value,
                str(each.tenant_id),
                each.month,
                each.subject,
                each.expected,
                each.found,
                each.look,
            )
            for each in run.differences
        ]
        write_columns("Differences", ("check", "tenant", "month", "about", "expected", "found", "look"), rows)
