"""`tritium serve`: one model behind the OpenAI routes."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from tritium.cli.output import (
    FormatOption,
    ModelArgument,
    OutputFormat,
    ThreadsOption,
    write_json,
    write_note,
)
from tritium.errors import MissingExtraError, ValidationError

if TYPE_CHECKING:
    import socket

    from tritium.kernels.pages import KvDtype

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
ApiKeys = Annotated[
    list[str] | None,
    typer.Option(
        envvar="TRITIUM_API_KEY",
        help="What callers must send; by default everybody is let in. Give several (in the variable: with "
        "spaces between them), and each is a tenant with its fair share.",
    ),
]
KvDtypeOption = Annotated[
    str, typer.Option(help="What the key-value cache holds: int8, fp16 or fp32 (four times the memory).")
]
Name = Annotated[str | None, typer.Option(help="The model's name in requests; by default its directory's.")]


def serve(
    model: ModelArgument,
    *,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKeys = None,
    name: Name = None,
    threads: ThreadsOption = None,
    kv_dtype: KvDtypeOption = "int8",
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Serve a model through the OpenAI API until interrupted."""
    import signal
    import socket

    try:
        import uvicorn

        from tritium.engine.config import EngineConfig
        from tritium.protocol.app import DRAIN_SECONDS, MOST_WAITING_SECONDS, create_app
    except ImportError as error:
        raise MissingExtraError(extra="serve", feature="The server") from error
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        _bind(listener, host, port)  # before a large model is loaded for nothing
        limits = EngineConfig(
            kv_dtype=cast("KvDtype", kv_dtype),  # which refuses any other
            max_waiting_seconds=MOST_WAITING_SECONDS,
        )
        app = create_app(model, api_key=api_key, served_name=name, threads=threads, config=limits)
        url = _url(host, listener.getsockname()[1])
        if not api_key and not _is_local(host):
            write_note(
                "Warning: everybody who reaches this address is let in; give --api-key to change that."
            )
        if output_format is OutputFormat.JSON:
            write_json({"url": url})
        elif output_format is OutputFormat.HUMAN:
            write_note(f"Serving {model} at {url}/v1 (Ctrl-C stops)")
        level = "info" if output_format is OutputFormat.HUMAN else "warning"
        for number in (signal.SIGINT, signal.SIGTERM):
            # The server stops in order on both; what it raises again afterwards says nothing new.
            signal.signal(number, lambda *_: None)
        config = uvicorn.Config(app, log_level=level, timeout_graceful_shutdown=round(DRAIN_SECONDS))
        uvicorn.Server(config).run(sockets=[listener])


def _bind(listener: socket.socket, host: str, port: int) -> None:
    import socket

    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:  # in use, not allowed, not an address of this machine, not a name
        reason = error.strerror or str(error)
        raise ValidationError(f"Cannot listen on {host} port {port}: {reason}. Choose another.") from error


def _is_local(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
