"""One trace of a request, from the client's span to the engine's process, as a real collector receives it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import pytest
import uvicorn

pytest.importorskip("opentelemetry.sdk", reason="traces are sent with tritium[otel]")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "Behold"  # of the prompt: no span may have it


class Collector:
    """Receives OTLP over HTTP, in protobuf, and keeps the spans."""

    def __init__(self):
        self.spans, self.bodies, self.status = [], [], 200

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        if self.status == 200:
            self.take(body, path=scope["path"])
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def take(self, body, *, path):
        assert path == "/v1/traces"
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            process = attributes_of(resource.resource)["tritium.process"]
            self.spans += [(process, span) for scope in resource.scope_spans for span in scope.spans]


def attributes_of(thing):
    def plain(value):
        kind = value.WhichOneof("value")
        found = getattr(value, kind)
        return [plain(each) for each in found.values] if kind == "array_value" else found

    return {each.key: plain(each.value) for each in thing.attributes}


@pytest.fixture
def collector():
    """A collector that listens, and its address."""
    app = Collector()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        app.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield app
        server.should_exit = True
        thread.join(20)


def deploy(program, key, harness):
    with program.http(key) as http:
        model = "scripture-llama-6m"
        path = str(harness.EXAMPLE_MODELS / model)
        http.post("/api/v1/models", json={"name": model, "path": path}).raise_for_status()
        http.post("/api/v1/deployments", json={"model": model}).raise_for_status()
        harness.wait_until(
            lambda: http.get(f"/api/v1/deployments/{model}").json()["state"] == "ready", seconds=60
        )
    return model


def complete(http, model, **fields):
    # Greedy: drawn at random, an answer may end before it has five tokens.
    body = {"model": model, "prompt": SECRET, "max_tokens": 5, "temperature": 0, **fields}
    return http.post(
        "/v1/completions",
        json=body,
        headers={"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "r-7"},
    )


def test_a_request_is_one_trace_over_both_processes(collector, run_program, harness):
    program = run_program(
        "serve",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="100",
        OTEL_SERVICE_NAME="shop",
    )
    key = program.open_account()
    model = deploy(program, key, harness)
    before = time.time_ns()
    with program.http(key) as http:
        assert complete(http, model).status_code == 200
        after = time.time_ns()
        assert complete(http, "nothing", prompt=SECRET).status_code == 404

    def spans():
        return [(process, span) for process, span in collector.spans if span.trace_id.hex() == TRACE]

    names = ["POST /v1/completions", "authenticate", "authenticate", "decode", "prefill", "queue"]
    harness.wait_until(lambda: sum(span.name.startswith("POST") for _, span in spans()) == 2)
    harness.wait_until(lambda: any(span.name == "decode" for _, span in spans()))
    found = {span.name: (process, span) for process, span in spans()}
    assert set(names) | {"reserve", "settle", f"text_completion {model}"} == set(found)

    def span_of(name):
        return found[name][1]

    roots = [span for _, span in spans() if span.parent_span_id.hex() == CALLER]
    (root, refused) = sorted(roots, key=lambda span: span.start_time_unix_nano)
    assert {process for process, span in spans() if span.name in {"queue", "prefill", "decode"}} == {"engine"}
    for name in ("queue", "prefill", "decode", "settle", f"text_completion {model}"):
        assert span_of(name).parent_span_id == root.span_id, name
    # The client may have its last byte before the server's side of the request ends.
    assert before <= root.start_time_unix_nano <= root.end_time_unix_nano <= after + 10**9
    queue, prefill, decode = (span_of(name) for name in ("queue", "prefill", "decode"))
    assert queue.end_time_unix_nano <= prefill.start_time_unix_nano + 10**6
    assert prefill.end_time_unix_nano <= decode.start_time_unix_nano + 10**6
    assert root.start_time_unix_nano <= prefill.start_time_unix_nano + 10**6
    assert decode.end_time_unix_nano <= root.end_time_unix_nano + 10**6
    assert span_of("settle").start_time_unix_nano >= prefill.end_time_unix_nano - 10**6

    work = attributes_of(span_of(f"text_completion {model}"))
    assert work["gen_ai.operation.name"] == "text_completion"
    assert work["gen_ai.request.model"] == model
    assert work["gen_ai.usage.output_tokens"] == 5
    assert work["gen_ai.response.finish_reasons"] == ["length"]
    assert attributes_of(prefill)["gen_ai.usage.input_tokens"] == work["gen_ai.usage.input_tokens"] > 0
    assert attributes_of(decode)["gen_ai.usage.output_tokens"] == 5
    assert attributes_of(root)["tritium.request_id"] == "r-7"
    assert attributes_of(root)["http.response.status_code"] == 200
    refusals = [span for _, span in spans() if span.parent_span_id == refused.span_id]
    assert {span.name: attributes_of(span).get("error.type") for span in refusals} == {
        "authenticate": None,
        "reserve": "not_found",
    }
    # Nothing of the prompt, the answer's words aside, and no key leaves in a span.
    sent = b"".join(collector.bodies)
    for secret in (SECRET, key, key.rpartition("_")[2], program.admin_key):
        assert secret.encode() not in sent
    logged = [
        json.loads(line) for line in (program.data_dir / "log").read_text().splitlines() if line[0] == "{"
    ]
    joined = [line for line in logged if line.get("request_id") == "r-7" and line["event"] == "request"]
    assert {line["trace_id"] for line in joined} == {TRACE}


@pytest.mark.parametrize("is_away", [True, False])
def test_a_collector_that_is_away_or_fails_disturbs_nobody(collector, run_program, harness, is_away):
    collector.status = 500
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}" if is_away else collector.url
        program = run_program("serve", OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_BSP_SCHEDULE_DELAY="50")
        key = program.open_account()
        model = deploy(program, key, harness)
        with program.http(key) as http:
            for _ in range(5):
                assert complete(http, model).status_code == 200
                time.sleep(0.1)
        begun = time.monotonic()
        program.stop()
        assert time.monotonic() - begun < 20
    assert collector.spans == []
