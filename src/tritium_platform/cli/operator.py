"""What the operator asks of a running server, and the key that lets him."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from typing import Annotated

import typer

from tritium.errors import ValidationError
from tritium_platform.cli.client import ServerClient, place_of

AdminKey = Annotated[
    str | None,
    typer.Option(
        envvar="TRITIUM_ADMIN_KEY",
        help="The operator's key; by default, for a server on this machine, that of the data directory.",
        show_default=False,
    ),
]
_THIS_MACHINE = {"127.0.0.1", "::1", "localhost"}


def operator_client(url: str, *, key: str | None) -> ServerClient:
    """Return a client that shows the operator's key: the one given, else that of the data directory.

    The data directory is the one that `tritiumd up` would use here; its key is shown to this machine only.

    Raises:
        ValidationError: no key is given, and there is none here or the server is elsewhere.
    """
    return ServerClient(url, key=key or _key_of_this_machine(place_of(url)[1]))


def _key_of_this_machine(host: str) -> str:
    from tritium_platform.config import load_config
    from tritium_platform.secret_files import admin_key

    path = load_config(toml_file=None, flags={}).admin_key_file
    how = "Give the operator's key with --key or TRITIUM_ADMIN_KEY"
    if host not in _THIS_MACHINE:
        raise ValidationError(f"{how}: {host} is another machine, and is not shown the key of this one.")
    if not path.exists():
        raise ValidationError(f"{how}: there is none in {path}.")
    return admin_key(path)
