"""Where spans go; it needs the extra `otel`, so that only `configure_tracing` imports it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracer

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class OwnSpans(TracerProvider):
    """Makes the spans of one scope alone: what libraries would say of errors holds words of tenants."""

    def __init__(self, *, scope: str, process: str) -> None:
        named = {"tritium.process": process}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            named["service.name"] = "tritium"
        # Nothing at exit: a collector that is away would keep the process.
        super().__init__(resource=Resource.create(named), shutdown_on_exit=False)
        self._scope = scope
        self.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))

    def get_tracer(self, instrumenting_module_name: str, *arguments: Any, **named: Any) -> Tracer:
        """Return a tracer that makes spans for the one scope, and one that makes none for any other."""
        if instrumenting_module_name != self._scope:
            return NoOpTracer()
        return super().get_tracer(instrumenting_module_name, *arguments, **named)
