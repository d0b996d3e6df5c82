"""`tritium serve`: one model behind the OpenAI routes."""

# ruff: noqa: PLC0415 - a command imports what it needs, so that --help stays fast

from __future__ import annotations

from pathlib import Path
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
from tritium.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tritium.engine.tuning import TuningMode
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
LatencyOption = Annotated[
    float | None,
    typer.Option(
        "--latency-ms", min=0.001, help="The longest a step, and the time between tokens, should take."
    ),
]
TuningOption = Annotated[
    str,
    typer.Option(help="What follows when steps take longer than --latency-ms: off, advise (log) or apply."),
]
TraceOption = Annotated[
    Path | None,
    typer.Option(help="Write what the engine does to this file, without texts; tritium tune reads it."),
]
MaxRunningOption = Annotated[int, typer.Option(min=1, help="Requests that share a step.")]
MaxBatchedTokensOption = Annotated[int, typer.Option(min=1, help="Tokens of a step, over all requests.")]
KvCacheOption = Annotated[int, typer.Option(min=1, help="Memory of the key-value cache in bytes.")]
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
    kv_cache_bytes: KvCacheOption = 512 * 2**20,
    max_running: MaxRunningOption = 32,
    max_batched_tokens: MaxBatchedTokensOption = 512,
    latency: LatencyOption = None,
    tuning: TuningOption = "advise",
    trace: TraceOption = None,
    output_format: FormatOption = OutputFormat.HUMAN,
) -> None:
    """Serve a model through the OpenAI API until interrupted."""
    try:
        import uvicorn  # noqa: F401 - it is asked for before a large model is loaded for nothing

        from tritium.engine.config import EngineConfig
        from tritium.protocol.app import (
            DRAIN_SECONDS,
            MOST_WAITING_SECONDS,
            create_app,
            stop_being_ready,
        )
        from tritium.protocol.server import listening, serve_until_stopped, url_of
    except ImportError as error:
        raise MissingExtraError(extra="serve", feature="The server") from error
    with listening(host, port) as listener:
        limits = EngineConfig(
            kv_dtype=cast("KvDtype", kv_dtype),  # which refuses any other
            kv_cache_bytes=kv_cache_bytes,
            max_running=max_running,
            max_batched_tokens=max_batched_tokens,
            max_waiting_seconds=MOST_WAITING_SECONDS,
            latency_seconds=None if latency is None else latency / 1000,
            tuning=cast("TuningMode", tuning),  # likewise
        )
        app = create_app(
            model, api_key=api_key, served_name=name, threads=threads, config=limits, trace=trace
        )
        url = url_of(listener)
        if not api_key and not _is_local(host):
            write_note(
                "Warning: everybody who reaches this address is let in; give --api-key to change that."
            )

        def announce() -> None:
            if output_format is OutputFormat.JSON:
                write_json({"url": url})
            elif output_format is OutputFormat.HUMAN:
                write_note(f"Serving {model} at {url}/v1 (Ctrl-C stops)")

        _run(
            serve_until_stopped(
                app,
                listener=listener,
                drain_seconds=DRAIN_SECONDS,
                on_listening=announce,
                on_stopping=lambda: stop_being_ready(app),
                log_level="info" if output_format is OutputFormat.HUMAN else "warning",
            )
        )


def _run(work: Coroutine[None, None, None]) -> None:
    """Run it on the faster loop where there is one."""
    import asyncio

    try:
        import uvloop
    except ImportError:  # it does not exist for every system
        asyncio.run(work)
    else:
        uvloop.run(work)


def _is_local(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
