"""`tritiumd retention preview` and `run`: what is kept too long, and its deletion."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_json, write_note, write_table, write_text
from tritium_platform.cli.common import ConfigFile, DatabaseUrl, DataDir, read_config, with_platform

if TYPE_CHECKING:
    from tritium_platform.compose import Platform
    from tritium_platform.config import PlatformConfig
    from tritium_platform.privacy.retention import (
        DataKind,
        KeptThing,
        RetentionReport,
        RetentionService,
    )

retention_group = typer.Typer(no_args_is_help=True, help="How long things are kept.")


@retention_group.command("preview")
def preview(
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Show what `run` would delete now, and what is due but held; deletes nothing."""
    config = read_config(config_file, data_dir=data_dir, database_url=database_url)

    async def work(platform: Platform) -> RetentionReport:
        return await _service(platform, config).preview()

    _write(with_platform(config, work), output_format)


@retention_group.command("run")
def run(
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Delete uploads, batch files and security events kept too long; the audit log gets a certificate."""
    config = read_config(config_file, data_dir=data_dir, database_url=database_url)

    async def work(platform: Platform) -> RetentionReport:
        return await _service(platform, config).sweep()

    _write(with_platform(config, work), output_format)


def _service(platform: Platform, config: PlatformConfig) -> RetentionService:
    from tritium_platform.adapters.file_shelf import FileShelf
    from tritium_platform.adapters.sql.batch_store import SqlBatchStore
    from tritium_platform.adapters.sql.file_store import SqlFileStore
    from tritium_platform.adapters.sql.job_store import SqlJobStore
    from tritium_platform.adapters.sql.security_store import SqlSecurityEventStore
    from tritium_platform.adapters.upload_shelf import UploadShelf
    from tritium_platform.privacy.retention import DataKind, RetentionService

    uploads = UploadShelf(
        directory=config.uploads_dir, uploads=platform.uploads, jobs=SqlJobStore(platform.database)
    )
    files = FileShelf(
        store=SqlFileStore(platform.database),
        files=platform.files,
        batches=SqlBatchStore(platform.database),
        unit_of_work=platform.database.unit_of_work,
    )
    return RetentionService(
        shelves={DataKind.UPLOAD: uploads, DataKind.BATCH_FILE: files},
        events=SqlSecurityEventStore(platform.database),
        trail=platform.books.outbox,
        clock=platform.clock,
    )


def _write(report: RetentionReport, output_format: OutputFormat) -> None:
    if output_format is OutputFormat.JSON:
        write_json(_plain(report))
    elif output_format is OutputFormat.QUIET:
        write_text("".join(f"{thing.id}\n" for thing in report.due))
    else:
        done = "Would be deleted" if report.is_dry_run else "Deleted"
        events = "" if report.is_dry_run else f", security events: {report.security_events}"
        counts = ", ".join(f"{_shown(kind)}s: {len(things)}" for kind, things in _by_kind(report).items())
        write_text(f"{done}: {counts}{events}\n")
        if report.due:
            rows = [
                (_shown(thing.kind), str(thing.id), str(thing.tenant_id), _day(thing)) for thing in report.due
            ]
            write_table("", ("what", "id", "tenant", "since"), rows)
        for thing, reason in report.held:
            write_note(f"{_shown(thing.kind)} {thing.id} is due and kept: {reason}")


def _plain(report: RetentionReport) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "is_dry_run": report.is_dry_run,
        **{f"{kind}s": [_thing(thing) for thing in things] for kind, things in _by_kind(report).items()},
        "held": [{**_thing(upload), "reason": reason} for upload, reason in report.held],
    }
    # A preview does not count them.
    return plain if report.is_dry_run else {**plain, "security_events": report.security_events}


def _by_kind(report: RetentionReport) -> dict[DataKind, tuple[KeptThing, ...]]:
    from tritium_platform.privacy.retention import DataKind

    return {kind: report.of(kind) for kind in (DataKind.UPLOAD, DataKind.BATCH_FILE)}


def _shown(kind: DataKind) -> str:
    return kind.value.replace("_", " ")


def _thing(upload: KeptThing) -> dict[str, str]:
    return {
        "id": str(upload.id),
        "tenant_id": str(upload.tenant_id),
        "created_at": upload.created_at.isoformat(),
    }


def _day(upload: KeptThing) -> str:
    return f"{upload.created_at:%Y-%m-%d}"
