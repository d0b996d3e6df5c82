"""From real requests to a real engine process to what the operator may change."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import tritium_test_programs as programs

from tritium.engine.bottleneck import find_bottleneck
from tritium.engine.evidence import evidence_of
from tritium.engine.recommendations import recommend
from tritium.engine.trace import read_trace

PROMPT = "And God said unto Noah"
REQUESTS, TOKENS = 30, 80


@pytest.fixture(scope="module")
def traced(tmp_path_factory, harness):
    """A platform whose engine had two places for thirty requests at once, and wrote down what it did."""
    directory = tmp_path_factory.mktemp("traced")
    config = harness.platform_config(directory, engine_traces=True, engine_max_running=2)
    platform, stop = harness.serve(config)
    _, key = platform.tenant(tier="team", max_concurrent_requests=100, requests_per_minute=10**6)
    model = platform.deploy(key, path=harness.EXAMPLE_MODELS / "scripture-llama-6m")
    client = platform.openai(key)

    def ask(number):
        client.completions.create(
            model=model, prompt=f"{number} {PROMPT}", max_tokens=TOKENS, extra_body={"ignore_eos": True}
        )

    with ThreadPoolExecutor(REQUESTS) as pool:
        list(pool.map(ask, range(REQUESTS)))
    harness.wait_until(lambda: any(directory.glob("traces/*.jsonl")))
    yield platform, key, directory
    stop()


def test_an_operator_sees_what_limits_an_engine_and_what_to_change(traced):
    platform, _, directory = traced
    with platform.admin() as client:
        (engine,) = client.get("/api/v1/recommendations").raise_for_status().json()
    assert engine["deployment"] == "scripture-llama-6m"
    assert engine["requests"] == REQUESTS
    assert engine["bottleneck"]["kind"] in {"cpu", "memory", "network", "demand", "not known"}
    (path,) = directory.glob("traces/*.jsonl")
    # What is recommended depends on what steps cost here: it is what the library says of the same file.
    expected = recommend(read_trace(path))
    assert [each["id"] for each in engine["recommendations"]] == [each.id for each in expected]
    assert [each["undo"] for each in engine["recommendations"]] == [each.undo for each in expected]
    assert engine["bottleneck"]["kind"] == find_bottleneck(evidence_of(read_trace(path))).kind
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "Noah" not in path.read_text()


def test_nobody_else_sees_it(traced):
    platform, key, _ = traced
    with platform.http(key) as client:
        assert client.get("/api/v1/recommendations").status_code == 403
        assert client.get("/api/v1/recommendations", headers={"authorization": ""}).status_code == 401


def test_the_command_shows_the_same(traced):
    platform, _, _ = traced

    def run(output_format):
        environment = os.environ | {"TRITIUM_ADMIN_KEY": platform.platform.admin_token}
        words = ("recommend", "--url", platform.url, "--format", output_format)
        done = programs.run("tritiumd", *words, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (engine,) = json.loads(run("json"))["engines"]
    assert engine["requests"] == REQUESTS
    found, shown = engine["recommendations"], run("human")
    assert "bound by" in shown
    assert all(f"{each['id']}: " in shown for each in found)
    assert [each["id"] in run("quiet").splitlines() for each in found] == [True] * len(found)


def test_an_engine_that_writes_nothing_down_is_not_shown(running):
    _, key = running.tenant(tier="team")
    model = running.deploy(key)
    running.openai(key).completions.create(model=model, prompt=PROMPT, max_tokens=2)
    with running.admin() as client:
        assert client.get("/api/v1/recommendations").raise_for_status().json() == []
