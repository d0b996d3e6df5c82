"""A mock model with a fixed pace, in the places where a model can stand: what is measured is the road to it.

    python benchmarks/mock_model.py upstream --port P     a bare OpenAI server: what LiteLLM's proxy calls
    python benchmarks/mock_model.py direct --port P       the library's own server over the mock engine
    python benchmarks/mock_model.py platform --data-dir D the whole platform; one engine process per replica
    python benchmarks/mock_model.py platform --in-process the same with the mock engine in the gateway
    python benchmarks/mock_model.py platform --one-process the books are written by the gateway's own process
    python benchmarks/mock_model.py platform --transactions reserves and settles in two database transactions

The mock engine gives one token per TRITIUM_MOCK_INTERVAL seconds (0: as fast as they are taken), as many as
the request asks for. Every server prints one line of JSON with its address when it serves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import msgspec
import uvicorn
import uvloop
from fastapi import FastAPI

from tritium.engine.request import TokenOutput
from tritium.model.tokenizer import Tokenizer
from tritium.protocol.backend import LocalBackend
from tritium.protocol.routes import build_router
from tritium_platform.adapters import engine_process
from tritium_platform.adapters.telemetry import configure_logging
from tritium_platform.api.server import serve_platform
from tritium_platform.compose import initialize_platform
from tritium_platform.config import PlatformConfig
from tritium_platform.gateway import Gateway
from tritium_platform.serving.model import ModelFacts, ModelKind, ReplicaState, ReplicaStatus
from tritium_platform.worker import engine_main

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tritium.engine.request import GenerationRequest

MODEL = Path(__file__).resolve().parents[1] / "examples" / "models" / "scripture-llama-6m"
INTERVAL = float(os.environ.get("TRITIUM_MOCK_INTERVAL", "0"))
VOCABULARY, POSITIONS = 2048, 1 << 20
# More than any run of these benchmarks asks for at one time: what is measured is not the refusal.
LIMITS = {
    "requests_per_minute": 10**9,
    "tokens_per_minute": 10**12,
    "max_concurrent_requests": 10**6,
    "monthly_quota": 10**9,
}


class MockEngine:
    """Stands where an engine thread stands: gives a token per interval until the request has all it wants."""

    metrics = None
    num_waiting = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        """Return the stream of a request."""
        return paced(request)

    def start(self) -> MockEngine:
        """Do nothing: there is no thread."""
        return self

    def close(self) -> None:
        """Do nothing."""


async def paced(request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
    """Yield `max_tokens` tokens at the fixed pace."""
    wanted, prompt = request.sampling.max_tokens or 16, len(request.prompt_token_ids)
    due = time.monotonic()
    for count in range(1, wanted + 1):
        if INTERVAL:
            due += INTERVAL
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield TokenOutput(
            request_id=request.request_id,
            text=" word",
            token_ids=(7,),
            finish_reason="length" if count == wanted else None,
            prompt_tokens=prompt,
            completion_tokens=count,
            compute_seconds=0.0,
            queue_seconds=0.0,
            peak_kv_bytes=0,
        )


class MockReplica:
    """One replica in the gateway's own process: no socket, no child."""

    def __init__(self, *, name: str) -> None:
        facts = ModelFacts(
            kind=ModelKind.GENERATE, vocabulary_size=VOCABULARY, maximum_positions=POSITIONS, places=256
        )
        self.status = ReplicaStatus(name=name, state=ReplicaState.READY, facts=facts)

    def watch(self, changed: Callable[[], None]) -> None:
        """Do nothing: it does not change."""

    def weigh(self, weight: int) -> None:
        """Do nothing: it has no process of its own."""

    async def start(self) -> None:
        """Do nothing: it is there."""

    async def wait_ready(self) -> None:
        """Return at once."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        """Yield the tokens of one request."""
        return paced(request)

    async def drain(self, *, timeout: float) -> None:  # noqa: ASYNC109 - the protocol's signature
        """Do nothing."""


class MockEngineProcess(engine_process.EngineProcess):
    """The platform's own supervision and protocol around a child that runs the mock engine."""

    async def _spawn(self, link: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "engine", "--link", str(link)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(link,),
        )


def launch_in_process(*, name: str, **_: object) -> MockReplica:
    """Make a replica in this process."""
    return MockReplica(name=name)


def launch_process(*, name: str, model_path: str, **_: object) -> MockEngineProcess:
    """Make a replica in a child process."""
    return MockEngineProcess(name=name, model_path=model_path)


def run_engine(link: int) -> None:
    """Be an engine process, as `tritium_platform.worker.engine_main` is one."""
    facts = ModelFacts(
        kind=ModelKind.GENERATE, vocabulary_size=VOCABULARY, maximum_positions=POSITIONS, places=256
    )
    engine_main._load = lambda _: (MockEngine(), facts)  # noqa: SLF001 - the one thing that is not real
    engine_main.main(["--link", str(link), "--model", "mock", "--name", "mock", "--log-level", "error"])


def announce(**facts: object) -> None:
    """Say where the server is."""
    print(json.dumps(facts), flush=True)


async def run_platform(options: argparse.Namespace) -> None:
    """Serve the platform on a fresh directory, with one tenant's key and a deployed mock model."""
    config = PlatformConfig(
        data_dir=options.data_dir,
        database_url=options.database_url,
        port=options.port,
        model_roots=(MODEL.parent,),
        tiers={"business": LIMITS},
    )
    configure_logging(level=config.log_level)  # one line per request, as in production
    options.data_dir.mkdir(parents=True, exist_ok=True)
    launch = launch_in_process if options.in_process else launch_process
    platform = await initialize_platform(
        config, launch=launch, is_audit_required=True, is_bookkeeper_apart=not options.one_process
    )
    if options.transactions:
        platform.gateway = Gateway(tenancy=platform.tenancy, books=replace(platform.books, journal=None))
    await serve_platform(platform, on_listening=lambda url: announce(url=url, key=platform.admin_token))


async def run_direct(port: int) -> None:
    """Serve the library's own routes over the mock engine: the engine alone."""
    loaded = SimpleNamespace(
        name="m", engine=object(), batcher=None, tokenizer=Tokenizer(str(MODEL)), max_tokens=POSITIONS
    )
    backend = LocalBackend(loaded, served_name="m")
    backend.thread = MockEngine()
    app = FastAPI()
    app.include_router(build_router(backend))
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    announce(url=f"http://127.0.0.1:{listener.getsockname()[1]}", key="x")
    await server.serve(sockets=[listener])


class BareServer(asyncio.Protocol):
    """Answers completions with as little work as Python can do: it must not be what is measured."""

    def __init__(self) -> None:
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self._seen += data
        while True:
            head, gap, rest = self._seen.partition(b"\r\n\r\n")
            if not gap:
                return
            lower = head.lower()
            length = (
                int(lower.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length" in lower else 0
            )
            if len(rest) < length:
                return
            body, self._seen = rest[:length], rest[length:]
            self._answer(msgspec.json.decode(body) if body else {})

    def _answer(self, wish: dict[str, object]) -> None:
        tokens = int(wish.get("max_tokens", 16))
        usage = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": tokens + 3}
        words = " word" * tokens
        message = {"role": "assistant", "content": words}
        body = msgspec.json.encode(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": "m",
                "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
                "usage": usage,
            }
        )
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)


async def run_upstream(port: int) -> None:
    """Serve the bare answers."""
    server = await asyncio.get_running_loop().create_server(BareServer, "127.0.0.1", port)
    announce(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", key="x")
    await server.serve_forever()


def main() -> None:
    """Be one of the servers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("role", choices=["upstream", "direct", "platform", "engine"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--database-url")
    parser.add_argument("--in-process", action="store_true")
    parser.add_argument("--transactions", action="store_true")
    parser.add_argument("--one-process", action="store_true")
    parser.add_argument("--link", type=int, default=-1)
    options = parser.parse_args()
    if options.role == "engine":
        run_engine(options.link)
    elif options.role == "platform":
        uvloop.run(run_platform(options))
    elif options.role == "direct":
        uvloop.run(run_direct(options.port))
    else:
        uvloop.run(run_upstream(options.port))


if __name__ == "__main__":
    main()
