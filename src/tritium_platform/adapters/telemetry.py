"""Logs as JSON lines."""

from __future__ import annotations

import logging
import sys

import msgspec
import structlog


class _NamedBytesLogger(structlog.BytesLogger):
    """Writes whole lines to stderr, and knows the name that `add_logger_name` puts into them."""

    def __init__(self, name: str = "") -> None:
        super().__init__(sys.stderr.buffer)
        self.name = name


def _as_bytes(_: object, __: str, line: object) -> bytes:
    return str(line).encode("utf-8", "backslashreplace")


def _to_json(event: object, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def configure_logging(*, level: str = "info", is_json: bool = True) -> None:
    """Send every log line of this process, the libraries' too, to stderr; as JSON, or for a terminal."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(_to_json) if is_json else structlog.dev.ConsoleRenderer()
    )
    # Our own lines take the short way to stderr: one is written for every request.
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, render, _as_bytes],
        logger_factory=_NamedBytesLogger,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel("WARNING")
    # The access line is ours: uvicorn's would print query strings.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"
