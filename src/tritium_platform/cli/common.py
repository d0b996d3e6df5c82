"""What the commands share: where the data is, and how a command borrows the platform."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer
from typer.core import TyperGroup

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tritium_platform.compose import Platform
    from tritium_platform.config import PlatformConfig

Result = TypeVar("Result")
SHOW = "show"
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where the platform keeps its files.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A TOML file; flags and TRITIUM_... come before it.")
]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", help="postgresql+psycopg://...; SQLite by default.")
]
LogLevel = Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error.")]


class ShowGroup(TyperGroup):
    """Takes `tritiumd usage TENANT` for `tritiumd usage show TENANT`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the command in front if none is there."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [SHOW, *args]
        return super().parse_args(ctx, args)


def read_config(config_file: Path | None, **flags: Any) -> PlatformConfig:
    """Read the configuration: flag > environment > file > default."""
    from tritium_platform.config import load_config

    return load_config(toml_file=config_file, flags=flags)


def with_platform(config: PlatformConfig, work: Callable[[Platform], Awaitable[Result]]) -> Result:
    """Do something with the platform's services, whether or not a server runs beside."""
    from tritium_platform.adapters.telemetry import configure_logging
    from tritium_platform.compose import initialize_platform

    configure_logging(level="warning", is_json=False)

    async def run() -> Result:
        platform = await initialize_platform(config)
        try:
            return await work(platform)
        finally:
            await platform.stop()

    return asyncio.run(run())


def parse_id(text: str) -> UUID:
    """Read a UUID; ValidationError if it is none."""
    try:
        return UUID(text)
    except ValueError:
        raise ValidationError(f"{text!r} is not an id.") from None
