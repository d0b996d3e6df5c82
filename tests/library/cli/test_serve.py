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
