"""`tritiumd compliance check`: looks at the platform's own state and says which controls it saw operate."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_json, write_text
from tritium.errors import ValidationError
from tritium_platform.cli.common import ConfigFile, DatabaseUrl, DataDir, read_config, with_platform

if TYPE_CHECKING:
    from tritium_platform.compliance.reports import ComplianceReport, ComplianceService
    from tritium_platform.compose import Platform

compliance_group = typer.Typer(no_args_is_help=True, help="Evidence for auditors.")


class FrameworkName(StrEnum):
    """The frameworks of the compliance room, spelled here so that --help does not load it."""

    SOC2 = "SOC2"
    HIPAA = "HIPAA"
    GDPR = "GDPR"


@compliance_group.callback()
def _group() -> None:
    """Gather evidence."""


@compliance_group.command("check")
def check(
    *,
    framework: Annotated[
        FrameworkName | None, typer.Option(help="Only the checks that map to it; by default all.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A signed checkpoint kept from earlier: the log must continue it."),
    ] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Run the checks, and put the report's digest into the audit log; exit code 1 unless nothing is wrong."""
    from tritium_platform.compliance.model import Framework
    from tritium_platform.compliance.reports import render_report, report_to_dict

    saved = _read(checkpoint) if checkpoint is not None else None
    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    wanted = Framework(framework.value) if framework is not None else None

    async def work(platform: Platform) -> ComplianceReport:
        return await _service(platform, saved_checkpoint=saved).run(framework=wanted)

    report = with_platform(config, work)
    if output_format is OutputFormat.JSON:
        write_json(report_to_dict(report))
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{result.check_id} {result.outcome}\n" for result in report.results))
    else:
        write_text(render_report(report))
    if report.violations:
        raise typer.Exit(1)


def _service(platform: Platform, *, saved_checkpoint: bytes | None) -> ComplianceService:
    from tritium_platform.adapters.sql.evidence import SqlCensus
    from tritium_platform.compliance.checks.api_keys import ApiKeysAreHashed
    from tritium_platform.compliance.checks.audit_log import AuditLogIsIntact
    from tritium_platform.compliance.checks.isolation import TenantTablesCarryTheirTenant
    from tritium_platform.compliance.reports import ComplianceService

    census, clock = SqlCensus(platform.database), platform.clock
    checks = (
        AuditLogIsIntact(
            platform.config.audit_dir,
            vkey=platform.verifier_key,
            clock=clock,
            saved_checkpoint=saved_checkpoint,
        ),
        ApiKeysAreHashed(census=census, tenancy=platform.tenancy, clock=clock),
        TenantTablesCarryTheirTenant(census=census, clock=clock),
    )
    return ComplianceService(checks=checks, trail=platform.books.outbox, clock=clock)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValidationError(f"{path} cannot be read: {error.strerror}.") from error
