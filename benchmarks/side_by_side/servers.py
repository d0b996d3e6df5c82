"""Servers of the OpenAI protocol, each in a process of its own, and how a request to each is spelled."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

START_SECONDS = 120.0


@dataclass(frozen=True)
class Server:
    """How to start a server; `{port}` in a word is replaced. `extra` goes into every request."""

    name: str
    words: Sequence[str]
    extra: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/v1/models"


@contextlib.contextmanager
def running(server: Server, *, log: Path) -> Iterator[int]:
    """Start a server, give its port when it answers, and end it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [word.replace("{port}", str(port)) for word in server.words]
    with log.open("ab") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=output, env={**os.environ, **server.environment}
        )
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}{server.ready_path}", server.name)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, name: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with {process.returncode} before it answered")
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - http, our own machine
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"{name} did not answer within {START_SECONDS:.0f} s")


def tritium_server(python: Path, model: Path, *, threads: int, environment: Mapping[str, str]) -> Server:
    """Our own server as a user starts it: `tritium serve MODEL`."""
    program = python.parent / "tritium"
    words = [str(program), "serve", str(model), "--port", "{port}", "--threads", str(threads)]
    return Server(
        "tritium serve",
        [*words, "--name", "m", "--format", "quiet"],
        extra={"ignore_eos": True},
        environment=environment,
    )


def llama_server(binary: Path, model: Path, *, threads: int, slots: int, context: int) -> Server:
    """llama.cpp's own server with a slot for every stream; `context` tokens for each."""
    words = [str(binary), "-m", str(model), "--port", "{port}", "-t", str(threads), "-tb", str(threads)]
    words += ["-np", str(slots), "-c", str(slots * context), "--no-cache-prompt", "--no-ui"]
    return Server(
        "llama-server", words, extra={"ignore_eos": True, "cache_prompt": False}, ready_path="/health"
    )


def llama_cpp_python_server(python: Path, model: Path, *, threads: int, context: int) -> Server:
    """llama-cpp-python's server, which takes one request after the other."""
    words = [str(python), "-m", "llama_cpp.server", "--model", str(model), "--port", "{port}"]
    words += ["--n_threads", str(threads), "--n_threads_batch", str(threads), "--n_ctx", str(context)]
    return Server("llama-cpp-python server", [*words, "--interrupt_requests", "false", "--verbose", "false"])
