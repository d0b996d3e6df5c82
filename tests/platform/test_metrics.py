"""What /metrics exposes: in vLLM's shape, by model and tier, and true across engines that come and go."""

from __future__ import annotations

from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

from tritium_platform.adapters.metrics import Metrics
from tritium_platform.insight.forecast import LoadForecast
from tritium_platform.insight.prediction import ModelForecast
from tritium_platform.metering.model import UsageQuantities
from tritium_platform.serving.model import Consumption, Course, EngineLoad, EngineReading
from tritium_platform.tenancy.model import TenantTier

# vLLM's names with our prefix in the place of `vllm:` (its docs/design/metrics.md), and what is only ours.
OF_VLLM = {
    "num_requests_running": "gauge",
    "num_requests_waiting": "gauge",
    "kv_cache_usage_perc": "gauge",
    "num_preemptions": "counter",
    "prefix_cache_queries": "counter",
    "prefix_cache_hits": "counter",
    "prompt_tokens": "counter",
    "generation_tokens": "counter",
    "request_success": "counter",
    "time_to_first_token_seconds": "histogram",
    "inter_token_latency_seconds": "histogram",
    "e2e_request_latency_seconds": "histogram",
    "request_queue_time_seconds": "histogram",
    "request_prefill_time_seconds": "histogram",
    "request_decode_time_seconds": "histogram",
}
OURS = {
    "requests": "counter",
    "admission_rejections": "counter",
    "replicas": "gauge",
    "event_spool_bytes": "gauge",
    "events_deferred": "counter",
    "events_refused": "counter",
    "memory_pressure_ratio": "gauge",
    "memory_pressure_rung": "gauge",
    "evicted_blocks": "counter",
    "forecast_peak_tokens": "gauge",
    "forecast_relative_error": "gauge",
    "reconciliation_differences": "gauge",
    "reconciliation_rows": "gauge",
    "reconciliation_timestamp_seconds": "gauge",
}
LABELS = {"model": "m", "tier": "team"}


def exposed(metrics, *engines, states=None):
    text = metrics.render(replica_states=states or {}, engines=engines).decode()
    families = text_string_to_metric_families(text)
    # The client library adds the time at which a series began, as a gauge of its own.
    return {family.name: family for family in families if not family.name.endswith("_created")}


def value(families, name, **labels):
    family = families[f"tritium_{name.removesuffix('_total').removesuffix('_count').removesuffix('_sum')}"]
    (sample,) = [
        each for each in family.samples if each.name == f"tritium_{name}" and each.labels == LABELS | labels
    ]
    return sample.value


def a_reading(replica="r-0", *, model="m", **load):
    return EngineReading(model=model, tier=TenantTier.TEAM, replica=replica, load=EngineLoad(**load))


def test_the_names_and_kinds_are_those_of_vllm_and_labels_name_no_tenant():
    metrics = Metrics()
    metrics.refused(tier="team", reason="overloaded")
    families = exposed(metrics, a_reading(), states={"ready": 1})
    assert {name: family.type for name, family in families.items()} == {
        f"tritium_{name}": kind for name, kind in (OF_VLLM | OURS).items()
    }
    labels = {label for family in families.values() for sample in family.samples for label in sample.labels}
    assert "tenant" not in " ".join(labels)


def test_a_forecast_is_shown_by_its_peak_and_an_old_one_not_at_all():
    metrics = Metrics()

    def a_forecast(model, *, expected, high, errors):
        load = LoadForecast(
            start=datetime(2026, 11, 30, tzinfo=UTC),
            published="fourier_ridge",
            reason="",
            expected=expected,
            high=high,
            errors=errors,
        )
        return ModelForecast(tier=TenantTier.TEAM, model=model, forecast=load, tokens_per_replica=1.0)

    errors = {"seasonal_naive_24": 1.0, "fourier_ridge": 0.5}
    metrics.foreseen([a_forecast("old", expected=(1.0,), high=(1.0,), errors=errors)])
    metrics.foreseen([a_forecast("m", expected=(3.0, 5.0), high=(9.0, 8.0), errors=errors)])
    families = exposed(metrics)
    assert value(families, "forecast_peak_tokens", quantile="0.5") == 5
    assert value(families, "forecast_peak_tokens", quantile="0.9") == 9
    assert value(families, "forecast_relative_error") == 0.5
    assert {sample.labels["model"] for sample in families["tritium_forecast_peak_tokens"].samples} == {"m"}


def test_a_generation_is_told_by_its_tokens_and_times():
    metrics = Metrics()
    where = {**LABELS, "operation": "completion"}
    for seconds, is_first in ((0.3, True), (0.02, False), (0.04, False)):
        metrics.piece(**where, seconds=seconds, is_first=is_first)
    course = Course(queue_seconds=0.1, prompt_tokens=40, cached_tokens=32, finish_reason="stop")
    used = Consumption(quantities=UsageQuantities(input_tokens=40, output_tokens=3), course=course)
    metrics.finished(**where, outcome="success", seconds=0.36, first_seconds=0.3, consumption=used)
    families = exposed(metrics)
    for name, expected in (
        ("time_to_first_token_seconds_sum", 0.3),
        ("inter_token_latency_seconds_count", 2),
        ("inter_token_latency_seconds_sum", 0.06),
        ("e2e_request_latency_seconds_sum", 0.36),
        ("request_queue_time_seconds_sum", 0.1),
        ("request_prefill_time_seconds_sum", 0.2),
        ("request_decode_time_seconds_sum", 0.06),
        ("prompt_tokens_total", 40),
        ("generation_tokens_total", 3),
        ("prefix_cache_queries_total", 40),
        ("prefix_cache_hits_total", 32),
    ):
        assert abs(value(families, name) - expected) < 1e-9, name
    assert value(families, "request_success_total", finished_reason="stop") == 1
    assert value(families, "requests_total", operation="completion", outcome="success") == 1


def test_a_deployment_and_a_generation_that_gave_nothing_have_no_times_of_tokens():
    metrics = Metrics()
    deployment = {**LABELS, "operation": "deployment"}
    metrics.piece(**deployment, seconds=0.1, is_first=True)
    for where in (deployment, {**LABELS, "operation": "chat"}):
        metrics.finished(
            **where, outcome="failed", seconds=0.1, first_seconds=None, consumption=Consumption()
        )
    families = exposed(metrics)
    for name in ("time_to_first_token_seconds", "request_queue_time_seconds", "request_decode_time_seconds"):
        assert families[f"tritium_{name}"].samples == []
    assert value(families, "e2e_request_latency_seconds_count") == 2


def test_engines_of_one_model_are_added_up_and_what_left_is_not_shown():
    metrics = Metrics()
    families = exposed(
        metrics,
        a_reading("a-0", running=3, waiting=2, kv_blocks_used=10, kv_blocks=100),
        a_reading("a-1", running=1, waiting=0, kv_blocks_used=40, kv_blocks=100),
    )
    assert value(families, "num_requests_running") == 4
    assert value(families, "num_requests_waiting") == 2
    assert value(families, "kv_cache_usage_perc") == 0.25
    assert exposed(metrics)["tritium_num_requests_running"].samples == []


def test_preemptions_are_counted_on_when_an_engine_starts_anew():
    metrics = Metrics()
    for count, total in ((5, 5), (5, 5), (7, 7), (2, 9), (3, 10)):  # at the fourth it was restarted
        families = exposed(metrics, a_reading(preemptions=count))
        assert value(families, "num_preemptions_total") == total
    exposed(metrics)  # it is unloaded; one of another name comes
    assert value(exposed(metrics, a_reading("r-1", preemptions=4)), "num_preemptions_total") == 14


def test_of_the_engines_of_one_model_the_one_that_is_shortest_of_memory_is_shown():
    metrics = Metrics()
    families = exposed(
        metrics,
        a_reading("a-0", memory_pressure=0.4, pressure_rung=0, evicted_blocks=3),
        a_reading("a-1", memory_pressure=0.96, pressure_rung=2, evicted_blocks=5),
    )
    assert value(families, "memory_pressure_ratio") == 0.96
    assert value(families, "memory_pressure_rung") == 2
    assert value(families, "evicted_blocks_total") == 8
    families = exposed(metrics, a_reading("a-0", memory_pressure=0.3, evicted_blocks=4))
    assert value(families, "memory_pressure_rung") == 0
    assert value(families, "evicted_blocks_total") == 9


def test_the_names_of_models_are_bounded():
    metrics = Metrics()
    families = exposed(metrics, *(a_reading(f"r-{n}", model=f"m{n}", running=1) for n in range(150)))
    samples = families["tritium_num_requests_running"].samples
    assert len(samples) == 101
    assert {each.labels["model"]: each.value for each in samples}["other"] == 50
