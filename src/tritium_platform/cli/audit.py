"""`tritiumd audit`: rehash the whole log without the server; give a database a new log when it is lost."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated
from uuid import UUID  # noqa: TC003 - typer reads the annotations when it runs

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_facts, write_json, write_note, write_text
from tritium.errors import ValidationError
from tritium_platform.cli.common import ConfigFile, DatabaseUrl, DataDir, read_config

if TYPE_CHECKING:
    from tritium_platform.audit.verify import VerificationReport
    from tritium_platform.config import PlatformConfig

audit_group = typer.Typer(no_args_is_help=True, help="The audit log.")


@audit_group.callback()
def _group() -> None:
    """Check the audit log."""


@audit_group.command("verify")
def verify(
    *,
    directory: Annotated[
        Path | None, typer.Option(help="The log's directory; by default the platform's own.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="The verifier key (name+hash+key); by default the platform's own.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A signed checkpoint kept from earlier: the log must continue it.")
    ] = None,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Rehash every entry and compare with the signed head; needs no server and believes none."""
    from tritium_platform.audit.verify import verify_log

    config = read_config(config_file, data_dir=data_dir)
    saved = _read(checkpoint) if checkpoint is not None else None
    report = verify_log(directory or config.audit_dir, key or _own_key(config), saved_checkpoint=saved)
    _write(report, output_format)
    if not report.is_intact:
        raise typer.Exit(1)


@audit_group.command("adopt")
def adopt(
    *,
    instead_of: Annotated[
        UUID, typer.Option(help="The id of the log that the database has now, as the refusal names it.")
    ],
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Give the database the log of this data directory, when its own is lost; stop every server first."""
    import asyncio

    from tritium_platform.compose.adoption import adopt_audit_log

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    adopted = asyncio.run(adopt_audit_log(config, instead_of=instead_of))
    write_note(f"The audit log of the database is {adopted.id} in {adopted.directory}.")


def _write(report: VerificationReport, output_format: OutputFormat) -> None:
    if output_format is OutputFormat.JSON:
        plain = asdict(report)
        for name in ("first_time", "last_time"):
            plain[name] = plain[name].isoformat() if plain[name] else None
        write_json({"is_intact": report.is_intact, **plain})
    elif output_format is OutputFormat.QUIET:
        write_text(f"{'intact' if report.is_intact else 'damaged'}\n")
    else:
        facts = [("origin", report.origin), ("entries", str(report.entries)), ("root", report.root)]
        write_facts("The audit log is intact" if report.is_intact else "The audit log is NOT intact", facts)
        for problem in report.problems:
            write_note(problem)


def _own_key(config: PlatformConfig) -> str:
    from tritium_platform.audit.note import NoteSigner

    path = config.signing_key_file or config.data_dir / "secrets" / "signing_key"
    if not path.is_file():
        raise ValidationError(f"There is no signing key at {path}: give the verifier key with --key.")
    return NoteSigner.from_seed(config.audit_origin, seed=config.signing_key_seed()).verifier.vkey


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValidationError(f"{path} cannot be read: {error.strerror}.") from error
