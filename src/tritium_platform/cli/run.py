"""`tritiumd up`, `serve`, `gateway`, `worker`, `migrate`, `config`: the processes and their configuration."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritium.cli.output import FormatOption, OutputFormat, write_facts, write_json, write_note, write_text
from tritium_platform.cli.common import ConfigFile, DatabaseUrl, DataDir, LogLevel, read_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium_platform.config import PlatformConfig

config_group = typer.Typer(no_args_is_help=True, help="The configuration.")
Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
ModelRoots = Annotated[
    list[Path] | None,
    typer.Option("--model-root", help="A directory below which tenants may name checkpoints; repeatable."),
]


def _starting(text: str, *, is_with_worker: bool, is_beside_server: bool = False) -> Callable[..., None]:
    """Return a command that starts a gateway and what belongs to it; `text` is its help."""

    def start(
        *,
        data_dir: DataDir = None,
        config_file: ConfigFile = None,
        database_url: DatabaseUrl = None,
        host: Host = None,
        port: Port = None,
        model_root: ModelRoots = None,
        log_level: LogLevel = None,
        output_format: FormatOption = OutputFormat.HUMAN,
    ) -> None:
        config = read_config(
            config_file,
            data_dir=data_dir,
            database_url=database_url,
            host=host,
            port=port,
            model_roots=tuple(model_root) if model_root else None,
            log_level=log_level,
        )
        _serve(config, output_format, is_with_worker=is_with_worker, is_beside_server=is_beside_server)

    start.__doc__ = text
    return start


up = _starting(
    "Start everything on this machine: the gateway, an engine per replica, the quantization worker.",
    is_with_worker=True,
)
serve = _starting(
    "Start the gateway and its engines; run `tritiumd worker` for quantizations.", is_with_worker=False
)
gateway = _starting(
    "Start one more gateway, with engines of its own, beside the server of a data directory (PostgreSQL).",
    is_with_worker=False,
    is_beside_server=True,
)


def worker(
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    log_level: LogLevel = None,
) -> None:
    """Do quantizations until SIGTERM; a job that was cut off goes on at the next start."""
    from tritium_platform.adapters.sql.migrate import migrate as upgrade
    from tritium_platform.adapters.telemetry import configure_logging
    from tritium_platform.worker.quantization_main import run_worker

    config = read_config(config_file, data_dir=data_dir, database_url=database_url, log_level=log_level)
    configure_logging(level=config.log_level)
    upgrade(config.resolved_database_url)
    asyncio.run(run_worker(config))


def migrate(
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Bring the database to the schema of this release."""
    from tritium_platform.adapters.sql.migrate import migrate as upgrade

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    upgrade(config.resolved_database_url)
    if output_format is OutputFormat.JSON:
        write_json({"migrated": True})
    elif output_format is OutputFormat.HUMAN:
        write_text("The database is at the newest schema.\n")


@config_group.command()
def check(
    *,
    data_dir: DataDir = None,
    config_file: ConfigFile = None,
    database_url: DatabaseUrl = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Say whether the platform could start with this configuration."""
    from tritium_platform.compose import problems_of
    from tritium_platform.config import unknown_variables

    config = read_config(config_file, data_dir=data_dir, database_url=database_url)
    problems, unknown = problems_of(config), unknown_variables()
    for name in unknown:
        write_note(f"{name} in the environment is no setting; is it misspelt?")
    if output_format is OutputFormat.JSON:
        write_json({"is_usable": not problems, "problems": problems, "unknown_variables": unknown})
    elif output_format is OutputFormat.HUMAN:
        write_text("".join(f"{problem}\n" for problem in problems) or "The configuration is usable.\n")
    if problems:
        raise typer.Exit(2)


def _serve(
    config: PlatformConfig,
    output_format: OutputFormat,
    *,
    is_with_worker: bool,
    is_beside_server: bool,
) -> None:
    import uvloop

    from tritium_platform.adapters.telemetry import configure_logging
    from tritium_platform.adapters.tracing import configure_tracing, flush_tracing

    configure_logging(level=config.log_level)
    configure_tracing(process="gateway")
    is_first_start = not config.admin_key_file.exists()
    try:
        uvloop.run(
            _run_server(
                config,
                output_format,
                is_first_start=is_first_start,
                is_with_worker=is_with_worker,
                is_beside_server=is_beside_server,
            )
        )
    finally:
        flush_tracing()


async def _run_server(
    config: PlatformConfig,
    output_format: OutputFormat,
    *,
    is_first_start: bool,
    is_with_worker: bool,
    is_beside_server: bool,
) -> None:
    from tritium_platform.adapters.worker_process import WorkerProcess
    from tritium_platform.api.server import serve_platform
    from tritium_platform.compose import initialize_platform
    from tritium_platform.console.customers import PlatformCustomers
    from tritium_platform.console.pages import build_console
    from tritium_platform.console.reads import PlatformOverview
    from tritium_platform.console.reports import PlatformReports
    from tritium_platform.console.session import ConsoleSessions
    from tritium_platform.console.spending import PlatformSpending

    platform = await initialize_platform(
        config,
        is_audit_required=not is_beside_server,
        is_beside_server=is_beside_server,
        is_bookkeeper_apart=not is_beside_server,
    )
    sessions = ConsoleSessions(platform.admin_token)
    console = build_console(
        PlatformOverview(platform),
        customers=PlatformCustomers(platform),
        spending=PlatformSpending(platform),
        reports=PlatformReports(platform),
        sessions=sessions,
        clock=platform.clock,
    )
    quantizer = WorkerProcess(config)

    def announce(url: str) -> None:
        facts = {"url": url, "openai_base_url": f"{url}/v1", "console": f"{url}/console"}
        if is_first_start:
            facts["admin_key"] = platform.admin_token
        if output_format is OutputFormat.JSON:
            write_json(facts)
        elif output_format is OutputFormat.QUIET:
            write_text(f"{url}\n")
        else:
            write_facts("Tritium is up", facts.items())
            if is_first_start:
                write_note("The admin key is shown this once; secrets/admin_key keeps it.")

    if is_with_worker:
        await quantizer.start()
    try:
        await serve_platform(platform, on_listening=announce, routers=[console])
    finally:
        await quantizer.stop()
        await platform.stop()
