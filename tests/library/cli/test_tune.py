from __future__ import annotations

import json
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tritium.engine.trace import line_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.serve
REQUESTS, TOKENS = 40, 24


@pytest.fixture(scope="module")
def trace(tritium_program, scripture_llama: Path, tmp_path_factory) -> Path:
    """What a server with two places wrote while forty requests came at once."""
    path = tmp_path_factory.mktemp("traces") / "trace.jsonl"
    words = ("--name", "m", "--port", "0", "--format", "json", "--threads", "1")
    words += ("--max-running", "2", "--latency-ms", "1000", "--tuning", "apply")
    process = subprocess.Popen(
        [*tritium_program, "serve", str(scripture_llama), *words, "--trace", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = json.loads(process.stdout.readline())["url"]

    def ask(number: int) -> None:
        body = {"model": "m", "prompt": f"{number} And", "max_tokens": TOKENS, "ignore_eos": True}
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            response.read()

    with ThreadPoolExecutor(REQUESTS) as pool:
        list(pool.map(ask, range(REQUESTS)))
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return path


@pytest.fixture
def waited(new_trace, tmp_path) -> Path:
    """A trace whose steps cost what they are said to: what is recommended depends on no machine."""
    requests = [{"arrival": number * 0.001} for number in range(130)]
    made = new_trace(requests, engine={"max_running": 2}, running=2.0)
    half = [replace(each, queue_seconds=each.end_seconds / 2) for each in made.requests]
    path = tmp_path / "waited.jsonl"
    path.write_text("".join(map(line_of, (made.engine, *half, *made.intervals))))
    return path


def test_a_trace_of_a_server_says_what_the_server_did(run_tritium, trace):
    done = run_tritium("tune", trace, "--format", "json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    evidence = content["evidence"]
    assert evidence["requests"] == REQUESTS
    assert evidence["engine"]["max_running"] == 2
    assert evidence["fill"] > 0.8
    assert evidence["queue_wait"] > 0.3
    assert content["bottleneck"]["kind"] in {"cpu", "memory", "network", "demand", "not known"}
    assert content["bottleneck"]["reason"]
    assert run_tritium("tune", trace, "--format", "json").stdout == done.stdout


def test_what_would_let_requests_wait_less_is_recommended_to_programs(run_tritium, waited):
    done = run_tritium("tune", waited, "--format", "json")
    assert done.returncode == 0, done.stderr
    found = {each["id"]: each for each in json.loads(done.stdout)["recommendations"]}
    assert found["queue_wait"]["change"] == {"max_running": [2, 4]}
    assert found["queue_wait"]["undo"].startswith("Set max_running back to 2")
    assert {each["figure"] for each in found["queue_wait"]["expected"]} == {
        "first_token_seconds",
        "end_seconds",
        "tokens_per_second",
    }


def test_and_to_people(run_tritium, trace, waited):
    done = run_tritium("tune", waited)
    assert done.returncode == 0, done.stderr
    for words in ("130 requests", "bound by", "queue_wait: Requests spend", "max_running", "2 -> 4", "undo"):
        assert words in done.stdout
    assert "queue_wait" in run_tritium("tune", waited, "--format", "quiet").stdout.splitlines()
    assert f"{REQUESTS} requests" in run_tritium("tune", trace).stdout


def test_a_what_if_of_ones_own_is_played(run_tritium, trace):
    done = run_tritium("tune", trace, "--set", "max_running=16", "--set", "max_batched_tokens=64")
    assert done.returncode == 0, done.stderr
    assert "What if max_running=16, max_batched_tokens=64" in done.stdout
    content = json.loads(run_tritium("tune", trace, "--set", "max_running=16", "--format", "json").stdout)
    first = next(each for each in content["what_if"]["expected"] if each["figure"] == "first_token_seconds")
    assert first["high"] < first["before"]
    assert content["recommendations"] == []


@pytest.mark.parametrize(
    "setting", ["max_running", "max_running=", "max_running=-1", "threads=2", "max_running=two"]
)
def test_a_setting_that_makes_no_sense_is_refused(run_tritium, trace, setting):
    done = run_tritium("tune", trace, "--set", setting)
    assert done.returncode == 2
    assert "--set takes NAME=NUMBER" in done.stderr


def test_a_limit_that_a_request_of_the_trace_cannot_keep_to_is_refused(run_tritium, trace):
    done = run_tritium("tune", trace, "--set", "kv_cache_bytes=1")
    assert done.returncode == 2
    assert "does not fit" in done.stderr
    assert run_tritium("tune", trace, "--set", "max_running=0").returncode == 2


def test_what_is_no_trace_is_named(run_tritium, tmp_path):
    (tmp_path / "poem").write_text("roses are red\n")
    done = run_tritium("tune", tmp_path / "poem")
    assert done.returncode == 2
    assert "line 1 is not a line of a trace" in done.stderr
    assert run_tritium("tune", tmp_path / "nothing").returncode == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--tuning", "always"), "tuning must be one of"), (("--trace", "/nowhere/t"), "cannot be written")],
)
def test_a_server_refuses_wrong_settings_before_it_serves(run_tritium, scripture_llama, words, message):
    done = run_tritium("serve", scripture_llama, "--port", "0", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
