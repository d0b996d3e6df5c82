"""When traces are sent, what is refused, and that nothing is done while they are off."""

from __future__ import annotations

import builtins

import pytest
from opentelemetry import trace

from tritium_platform.adapters import tracing
from tritium_platform.errors import MissingExtraError, ValidationError

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environment", "is_wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", **ENDPOINT}, False),
        ({"OTEL_SDK_DISABLED": "True", **ENDPOINT}, False),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
    ],
)
def test_the_standard_variables_decide(environment, is_wanted):
    assert tracing.is_tracing_wanted(environment) is is_wanted


@pytest.mark.parametrize(
    "environment", [{"OTEL_TRACES_EXPORTER": "console"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", **ENDPOINT}]
)
def test_what_is_not_spoken_is_refused(environment):
    with pytest.raises(ValidationError, match=next(iter(environment))):
        tracing.is_tracing_wanted(environment)


def test_without_the_extra_it_is_said_what_to_install(monkeypatch):
    real = builtins.__import__

    def without_sdk(name, *arguments, **named):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_sdk)
    for name, value in ENDPOINT.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MissingExtraError, match="otel"):
        tracing.configure_tracing(process="gateway")


def test_while_it_is_off_no_span_is_made_and_nothing_is_passed_on():
    tracing.configure_tracing(process="gateway")
    headers = {b"traceparent": b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    with tracing.request_span(headers, request_id="r", method="GET") as span:
        assert not span.is_recording()
        assert not trace.get_current_span().is_recording()
        assert tracing.trace_id_of(span) is None
        tracing.end_request_span(span, method="GET", route="/", status=200)
    with tracing.request_span({}, request_id="r", method="GET"):
        assert tracing.current_traceparent() == ""
    tracing.flush_tracing()
