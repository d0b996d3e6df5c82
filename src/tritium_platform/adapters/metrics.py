"""Metrics for Prometheus in the shape of vLLM's: labelled by model and tier, never by tenant.

Every time is taken from one process's clock: that of the gateway, but for the time in an engine's queue,
which the engine takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tritium_platform.metering.model import OperationType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium_platform.billing.reconciliation.model import ReconciliationRun
    from tritium_platform.insight.prediction import ModelForecast
    from tritium_platform.serving.model import Consumption, EngineReading

_MAX_MODEL_LABELS = 100
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_GENERATING = {OperationType.CHAT.value, OperationType.COMPLETION.value}
_LABELS = ("model", "tier")
_Metric = TypeVar("_Metric", Counter, Histogram)


class Metrics:
    """The counters of one platform; times in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._models: set[str] = set()
        self._series: dict[tuple[object, ...], Any] = {}
        self._seen: dict[str, tuple[int, int]] = {}  # counters of an engine, as they were last
        self._running = self._gauge("num_requests_running", "Requests that share an engine's steps.")
        self._waiting = self._gauge("num_requests_waiting", "Requests that wait in an engine's queue.")
        self._cache_usage = self._gauge("kv_cache_usage_perc", "Used share of the key-value cache, 0 to 1.")
        self._preemptions = self._counter(
            "num_preemptions", "Requests that lost their blocks or their place to another and came again."
        )
        self._pressure = self._gauge(
            "memory_pressure_ratio", "How short memory is for an engine's process, 0 to 1 and above."
        )
        self._rung = self._gauge(
            "memory_pressure_rung",
            "What engines do about it: 0 nothing, 1 empty caches, 2 run fewer requests, 3 take no new ones.",
        )
        self._evicted = self._counter(
            "evicted_blocks", "Blocks of the key-value cache whose memory was given back under pressure."
        )
        self._prefix_queries = self._counter(
            "prefix_cache_queries", "Tokens of prompts looked for in the prefix cache."
        )
        self._prefix_hits = self._counter("prefix_cache_hits", "Tokens of prompts found there.")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens read.")
        self._generation_tokens = self._counter("generation_tokens", "Tokens written.")
        self._success = self._counter("request_success", "Generations that ended.", "finished_reason")
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From admission to the first token."
        )
        self._inter_token = self._histogram(
            "inter_token_latency_seconds", "From one piece of text to the next.", buckets=_TOKEN_BUCKETS
        )
        self._duration = self._histogram("e2e_request_latency_seconds", "From admission to the last byte.")
        self._queue = self._histogram("request_queue_time_seconds", "In an engine's queue.")
        self._prefill = self._histogram(
            "request_prefill_time_seconds", "From the queue's end to the first token."
        )
        self._decode = self._histogram("request_decode_time_seconds", "From the first token to the last.")
        self._requests = self._counter("requests", "Requests by outcome.", "operation", "outcome")
        self._rejections = Counter(
            "tritium_admission_rejections", "Requests refused.", ("tier", "reason"), registry=self.registry
        )
        self._foreseen = Gauge(
            "tritium_forecast_peak_tokens",
            "Tokens in the busiest of the next 24 hours: the median (0.5), and what nine in ten stay below.",
            (*_LABELS, "quantile"),
            registry=self.registry,
        )
        self._foreseen_error = self._gauge(
            "forecast_relative_error", "Error of the published forecast beside the seasonal-naive one."
        )
        self._differences = Gauge(
            "tritium_reconciliation_differences",
            "Figures that contradict each other in the newest reconciliation of the books.",
            registry=self.registry,
        )
        self._reconciled_at = Gauge(
            "tritium_reconciliation_timestamp_seconds",
            "When the newest reconciliation began (Unix time).",
            registry=self.registry,
        )
        self._reconciled_rows = Gauge(
            "tritium_reconciliation_rows",
            "What the newest reconciliation looked at.",
            ("kind",),
            registry=self.registry,
        )
        self._events_waiting = Gauge(
            "tritium_event_spool_bytes",
            "Events that wait on this machine for the database.",
            registry=self.registry,
        )
        self._events_deferred = Counter(
            "tritium_events_deferred", "Events taken in while the database was away.", registry=self.registry
        )
        self._events_refused = Counter(
            "tritium_events_refused",
            "Events taken in while the database was away that the books did not take afterwards.",
            ("code",),
            registry=self.registry,
        )
        self._replicas = Gauge(
            "tritium_replicas", "Engine processes by state.", ("state",), registry=self.registry
        )

    def piece(self, *, model: str, tier: str, operation: str, seconds: float, is_first: bool) -> None:
        """Note the time to the first piece of a generated text, or from one piece to the next."""
        if operation in _GENERATING:
            histogram = self._first_token if is_first else self._inter_token
            self._one(histogram, self._model(model), tier).observe(seconds)

    def finished(
        self,
        *,
        model: str,
        tier: str,
        operation: str,
        outcome: str,
        seconds: float,
        first_seconds: float | None,
        consumption: Consumption,
    ) -> None:
        """Count a request that left; `first_seconds` is the time to its first piece, if it had one."""
        used, course = consumption.quantities, consumption.course
        labels, one = (self._model(model), tier), self._one
        one(self._requests, *labels, operation, outcome).inc()
        one(self._duration, *labels).observe(seconds)
        one(self._prompt_tokens, *labels).inc(used.input_tokens + used.embedding_tokens)
        one(self._generation_tokens, *labels).inc(used.output_tokens)
        if course is None or first_seconds is None:
            return
        one(self._prefix_queries, *labels).inc(course.prompt_tokens)
        one(self._prefix_hits, *labels).inc(course.cached_tokens)
        one(self._queue, *labels).observe(course.queue_seconds)
        one(self._prefill, *labels).observe(max(0.0, first_seconds - course.queue_seconds))
        one(self._decode, *labels).observe(seconds - first_seconds)
        if course.finish_reason is not None:
            one(self._success, *labels, course.finish_reason).inc()

    def refused(self, *, tier: str, reason: str) -> None:
        """Count a request that was not admitted."""
        self._rejections.labels(tier, reason).inc()

    def events_waiting(self, change: int) -> None:
        """Show that so many bytes of events more wait for the database, or less."""
        self._events_waiting.inc(change)

    def events_deferred(self, count: int) -> None:
        """Count events that were taken in while the database was away."""
        self._events_deferred.inc(count)

    def events_refused(self, count: int, *, code: str) -> None:
        """Count such events that the books did not take afterwards, by the code of the error."""
        self._events_refused.labels(code).inc(count)

    def foreseen(self, forecasts: Sequence[ModelForecast]) -> None:
        """Show the newest forecasts of the load, and no older ones."""
        self._foreseen.clear()
        self._foreseen_error.clear()
        for each in forecasts:
            labels, load = (self._model(each.model), each.tier.value), each.forecast
            if load.expected:
                self._foreseen.labels(*labels, "0.5").set(max(load.expected))
                self._foreseen.labels(*labels, "0.9").set(max(load.high))
            if load.relative_error is not None:
                self._foreseen_error.labels(*labels).set(load.relative_error)

    def reconciled(self, run: ReconciliationRun) -> None:
        """Show the newest reconciliation, whichever process did it."""
        self._differences.set(run.num_differences)
        self._reconciled_at.set(run.started_at.timestamp())
        self._reconciled_rows.clear()
        for kind, count in run.counted.items():
            self._reconciled_rows.labels(kind).set(count)

    def render(self, *, replica_states: Mapping[str, int], engines: Sequence[EngineReading]) -> bytes:
        """Return the Prometheus text, with engine processes by state and what engines have to do now."""
        self._replicas.clear()
        for state, count in replica_states.items():
            self._replicas.labels(state).set(count)
        self._show_engines(engines)
        return generate_latest(self.registry)

    def _show_engines(self, engines: Sequence[EngineReading]) -> None:
        for gauge in (self._running, self._waiting, self._cache_usage, self._pressure, self._rung):
            gauge.clear()
        worst: dict[tuple[str, str], list[float]] = {}
        blocks: dict[tuple[str, str], list[int]] = {}
        for engine in engines:
            labels = (self._model(engine.model), engine.tier.value)
            load = engine.load
            self._running.labels(*labels).inc(load.running)
            self._waiting.labels(*labels).inc(load.waiting)
            used_and_all = blocks.setdefault(labels, [0, 0])
            used_and_all[0] += load.kv_blocks_used
            used_and_all[1] += load.kv_blocks
            most = worst.setdefault(labels, [0.0, 0.0])
            most[:] = max(most[0], load.memory_pressure), max(most[1], load.pressure_rung)
            preempted, evicted = self._seen.get(engine.replica, (0, 0))
            self._preemptions.labels(*labels).inc(_new(load.preemptions, seen=preempted))
            self._evicted.labels(*labels).inc(_new(load.evicted_blocks, seen=evicted))
        self._seen = {
            engine.replica: (engine.load.preemptions, engine.load.evicted_blocks) for engine in engines
        }
        for labels, (pressure, rung) in worst.items():
            self._pressure.labels(*labels).set(pressure)
            self._rung.labels(*labels).set(rung)
        for labels, (used, total) in blocks.items():
            self._cache_usage.labels(*labels).set(used / total if total else 0.0)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"tritium_{name}", meaning, _LABELS, registry=self.registry)

    def _counter(self, name: str, meaning: str, *more: str) -> Counter:
        return Counter(f"tritium_{name}", meaning, (*_LABELS, *more), registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, *, buckets: Sequence[float] = _LATENCY_BUCKETS
    ) -> Histogram:
        return Histogram(f"tritium_{name}", meaning, _LABELS, buckets=buckets, registry=self.registry)

    def _one(self, metric: _Metric, *labels: str) -> _Metric:
        """Return the series of some labels; the library makes texts of them and takes a lock to find it.

        Only of metrics that are never cleared.
        """
        key = (metric, *labels)
        series: _Metric | None = self._series.get(key)
        if series is None:
            series = self._series[key] = metric.labels(*labels)
        return series

    def _model(self, name: str) -> str:
        """Bound the label: tenants choose these names, so their number must not grow without end."""
        if name in self._models:
            return name
        if len(self._models) >= _MAX_MODEL_LABELS:
            return "other"
        self._models.add(name)
        return name


def _new(count: int, *, seen: int) -> int:
    """Return what a counter has gained; an engine that was started anew counts from nothing."""
    return count - seen if count >= seen else count
