from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.serve
# Longer than the notice before the port closes, shorter than what runs may take to finish.
STREAM_SECONDS = 5


def asked(url: str, *, key: str | None = None, body: dict[str, Any] | None = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def started(program: list[str], *words: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [*program, "serve", *words, "--port", "0", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    for _ in range(300):
        try:
            asked(f"{url}/health")
            break
        except OSError:
            time.sleep(0.1)
    return process, url


@pytest.fixture(scope="module")
def server(tritium_program, scripture_llama: Path) -> Iterator[str]:
    keys = ("--api-key", "a-key", "--api-key", "b-key")
    process, url = started(tritium_program, str(scripture_llama), "--name", "scripture", *keys)
    yield url
    process.terminate()
    process.communicate(timeout=60)


def test_a_served_model_answers_the_openai_routes(server: str):
    for key in ("a-key", "b-key"):
        assert [model["id"] for model in asked(f"{server}/v1/models", key=key)["data"]] == ["scripture"]
    body = {"model": "scripture", "prompt": "In the beginning", "max_tokens": 4, "temperature": 0}
    completion = asked(f"{server}/v1/completions", key="a-key", body=body)
    assert completion["usage"]["completion_tokens"] == 4


def test_a_served_model_wants_its_key(server: str):
    for key in (None, "another"):
        with pytest.raises(urllib.error.HTTPError) as error:
            asked(f"{server}/v1/models", key=key)
        assert error.value.code == 401
        error.value.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_stops_in_order(tritium_program, scripture_llama: Path, number: signal.Signals):
    process, _ = started(tritium_program, str(scripture_llama))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors


def health_of(url: str) -> int | None:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:  # the port is closed
        return None


def test_a_stream_that_runs_when_the_server_is_stopped_is_finished_and_health_says_no_first(
    tritium_program, scripture_llama_without_end: Path
):
    process, url = started(tritium_program, str(scripture_llama_without_end), "--name", "m", "--threads", "1")
    body = {"model": "m", "prompt": "In the beginning", "max_tokens": 200, "ignore_eos": True}
    before = time.monotonic()
    asked(f"{url}/v1/completions", body=body)
    tokens = round(200 / (time.monotonic() - before) * STREAM_SECONDS)
    body |= {"max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True}}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as stream:
        lines = [stream.readline() for _ in range(5)]
        assert health_of(url) == 200
        process.send_signal(signal.SIGTERM)
        seen = [health_of(url)]
        while seen[-1] is not None:  # until the port is closed
            time.sleep(0.05)
            seen.append(health_of(url))
        assert 503 in seen
        assert [each for each in seen if each is not None][-1] == 503
        lines += stream.read().splitlines(keepends=True)
    events = [line.removeprefix(b"data: ").strip() for line in lines if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == tokens
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "cut off" in errors) == (0, False)


def test_a_port_that_is_taken_is_named(run_tritium, scripture_llama: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_tritium("serve", scripture_llama, "--port", port)
    assert done.returncode == 2
    assert f"Cannot listen on 127.0.0.1 port {port}" in done.stderr


@pytest.mark.parametrize("host", ["1.2.3.4", "::ffff:1.2.3.4.5"])
def test_an_address_that_is_not_ours_is_refused(run_tritium, scripture_llama: Path, host: str):
    done = run_tritium("serve", scripture_llama, "--host", host, "--port", "0")
    assert done.returncode == 2, done.stderr
    assert "Cannot listen" in done.stderr
