"""Logs as JSON lines and metrics for Prometheus: labelled by model and tier, never by tenant."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium_platform.serving.model import Consumption

_MAX_MODEL_LABELS = 100
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


def configure_logging(*, level: str = "info", is_json: bool = True) -> None:
    """Send every log line of this process, the libraries' too, to stderr; as JSON, or for a terminal."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if is_json else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
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


class Metrics:
    """The counters of one platform; times in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("model", "tier")
        self._models: set[str] = set()
        self._requests = Counter(
            "tritium_requests",
            "Requests by outcome.",
            (*labels, "operation", "outcome"),
            registry=self.registry,
        )
        self._running = Gauge(
            "tritium_requests_running", "Requests in flight.", labels, registry=self.registry
        )
        self._duration = Histogram(
            "tritium_request_seconds",
            "From admission to the last byte.",
            labels,
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._first_token = Histogram(
            "tritium_time_to_first_token_seconds",
            "From admission to the first token.",
            labels,
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._prompt_tokens = Counter("tritium_prompt_tokens", "Tokens read.", labels, registry=self.registry)
        self._generation_tokens = Counter(
            "tritium_generation_tokens", "Tokens written.", labels, registry=self.registry
        )
        self._rejections = Counter(
            "tritium_admission_rejections", "Requests refused.", ("tier", "reason"), registry=self.registry
        )
        self._replicas = Gauge(
            "tritium_replicas", "Engine processes by state.", ("state",), registry=self.registry
        )

    def started(self, *, model: str, tier: str) -> None:
        """Count a request that was admitted."""
        self._running.labels(self._model(model), tier).inc()

    def first_token(self, *, model: str, tier: str, seconds: float) -> None:
        """Note the time to the first token."""
        self._first_token.labels(self._model(model), tier).observe(seconds)

    def finished(
        self,
        *,
        model: str,
        tier: str,
        operation: str,
        outcome: str,
        seconds: float,
        consumption: Consumption,
    ) -> None:
        """Count a request that left."""
        used = consumption.quantities
        model = self._model(model)
        self._running.labels(model, tier).dec()
        self._requests.labels(model, tier, operation, outcome).inc()
        self._duration.labels(model, tier).observe(seconds)
        self._prompt_tokens.labels(model, tier).inc(used.input_tokens + used.embedding_tokens)
        self._generation_tokens.labels(model, tier).inc(used.output_tokens)

    def refused(self, *, tier: str, reason: str) -> None:
        """Count a request that was not admitted."""
        self._rejections.labels(tier, reason).inc()

    def render(self, *, replica_states: Mapping[str, int]) -> bytes:
        """Return the Prometheus text; `replica_states` counts engine processes by state now."""
        self._replicas.clear()
        for state, count in replica_states.items():
            self._replicas.labels(state).set(count)
        return generate_latest(self.registry)

    def _model(self, name: str) -> str:
        """Bound the label: tenants choose these names, so their number must not grow without end."""
        if name in self._models:
            return name
        if len(self._models) >= _MAX_MODEL_LABELS:
            return "other"
        self._models.add(name)
        return name
