"""Traces by OpenTelemetry: off, unless the standard OTEL_... variables say where spans go.

One trace holds a request from its first byte to its settlement, and its time in the engine's process; a
client's W3C `traceparent` is its parent. Spans hold ids, counts, names and times, never a text of a tenant or
a key. They leave on a thread of their own: a collector that is slow or away loses them, and nothing else.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tritium_platform.errors import MissingExtraError, ValidationError
from tritium_platform.spans import SCOPE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from tritium.engine.request import GenerationRequest, TokenOutput

NANOSECONDS = 1_000_000_000
FLUSH_SECONDS = 2.0
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_tracer = trace.get_tracer(SCOPE)
_propagator = TraceContextTextMapPropagator()


def is_tracing_wanted(environment: Mapping[str, str]) -> bool:
    """Tell whether the environment names a place for spans.

    Raises:
        ValidationError: it names an exporter that is not `otlp`, or a protocol that is not HTTP.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "")
    if exporter not in {"", "otlp", "none"}:
        raise ValidationError(f"OTEL_TRACES_EXPORTER={exporter[:40]}: choose otlp or none.")
    protocol = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    is_wanted = exporter != "none" and any(environment.get(name) for name in _ENDPOINTS)
    if is_wanted and protocol != "http/protobuf":
        raise ValidationError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol[:40]}: only http/protobuf is spoken.")
    return is_wanted or exporter == "otlp"


def configure_tracing(*, process: str) -> None:
    """Send this process's spans where the environment says; nothing is sent if it says nothing.

    Args:
        process: what this process is, such as `gateway` or `engine`.

    Raises:
        ValidationError: the variables ask for what there is not.
        MissingExtraError: the exporter is not installed.
    """
    if not is_tracing_wanted(os.environ):
        return
    try:
        from tritium_platform.adapters.trace_export import OwnSpans  # noqa: PLC0415 - it needs the extra
    except ImportError:
        raise MissingExtraError(
            extra="otel", feature="Sending traces (OTEL_EXPORTER_OTLP_ENDPOINT)"
        ) from None
    trace.set_tracer_provider(OwnSpans(scope=SCOPE, process=process))


def flush_tracing() -> None:
    """Send what has not been sent, for two seconds at most."""
    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        flushing = threading.Thread(target=flush, daemon=True)
        flushing.start()
        flushing.join(FLUSH_SECONDS)


@contextmanager
def request_span(headers: Mapping[bytes, bytes], *, request_id: str, method: str) -> Iterator[Span]:
    """Hold the span of one HTTP request, whose parent is the caller's, if it names one."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # tracing is off
        yield trace.INVALID_SPAN
        return
    around: Context | None = None
    if b"traceparent" in headers:
        carrier = {
            name: headers[name.encode()].decode("latin-1")
            for name in ("traceparent", "tracestate")
            if name.encode() in headers
        }
        around = _propagator.extract(carrier)
    with _tracer.start_as_current_span(
        method, context=around, kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
    ) as span:
        if span.is_recording():
            span.set_attribute("http.request.method", method)
            span.set_attribute("tritium.request_id", request_id)
        yield span


def end_request_span(span: Span, *, method: str, route: str, status: int) -> None:
    """Say how an HTTP request ended; `route` is a template and holds no name."""
    if span.is_recording():
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        if status >= 500:  # noqa: PLR2004 - of a server's span only these are errors
            span.set_status(Status(StatusCode.ERROR))


def trace_id_of(span: Span) -> str | None:
    """Return the trace's id in hexadecimal, to be written into logs; None while nothing is traced."""
    return f"{span.get_span_context().trace_id:032x}" if span.is_recording() else None


def current_traceparent() -> str:
    """Return the W3C `traceparent` of the span that is open here; empty if there is none."""
    context = trace.get_current_span().get_span_context()
    if not context.trace_flags.sampled:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


class GenerationSpans:
    """The time of one generation in an engine's process: in the queue, to its first token, to its last."""

    def __init__(self, request: GenerationRequest, *, traceparent: str) -> None:
        self._traceparent = traceparent
        self._arrival = round(request.arrival * NANOSECONDS)
        self._first: int | None = None
        self._last: TokenOutput | None = None

    def note(self, output: TokenOutput) -> None:
        """Take the next output."""
        if self._traceparent:
            self._first = self._first or time.monotonic_ns()
            self._last = output

    def end(self) -> None:
        """Make the spans, whether the generation came to its end or was cut off."""
        if not self._traceparent:
            return
        parent = _propagator.extract({"traceparent": self._traceparent})
        last, now = self._last, time.monotonic_ns()
        if last is None or self._first is None:
            _past_span("queue", parent, begin=self._arrival, end=now, attributes={"tritium.cut_off": True})
            return
        begun = self._arrival + round(last.queue_seconds * NANOSECONDS)
        _past_span("queue", parent, begin=self._arrival, end=begun, attributes={})
        read = {
            "gen_ai.usage.input_tokens": last.prompt_tokens,
            "tritium.cached_tokens": last.cached_tokens,
        }
        _past_span("prefill", parent, begin=begun, end=self._first, attributes=read)
        written: dict[str, Any] = {
            "gen_ai.usage.output_tokens": last.completion_tokens,
            "tritium.cut_off": last.finish_reason is None,
        }
        if last.finish_reason is not None:
            written["gen_ai.response.finish_reasons"] = [str(last.finish_reason)]
        _past_span("decode", parent, begin=self._first, end=now, attributes=written)


def _past_span(name: str, parent: Context, *, begin: int, end: int, attributes: Mapping[str, Any]) -> None:
    """Make a span that is over; its times are nanoseconds of the monotonic clock."""
    to_wall = time.time_ns() - time.monotonic_ns()
    span = _tracer.start_span(name, context=parent, attributes=attributes, start_time=begin + to_wall)
    span.end(end_time=max(begin, end) + to_wall)
