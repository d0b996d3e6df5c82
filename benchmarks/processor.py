"""Processor time of one request through the platform's app, without sockets: a figure for a busy machine.

    TMPDIR=/dev/shm python benchmarks/processor.py [--requests N] [--clients 1 8] [--one-process]

The app is called in this process with the mock model of `mock_model.py`: everything but HTTP parsing, sockets
and the engine's process. "main" is the thread that answers, "process" all threads of the gateway, until what
was asked for is in the books. With `--one-process` the books are written by this process, too.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop
from mock_model import LIMITS, MODEL, launch_in_process

from tritium_platform.adapters.telemetry import configure_logging
from tritium_platform.api.app import create_app
from tritium_platform.compose import initialize_platform
from tritium_platform.config import PlatformConfig

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from fastapi import FastAPI

WARM_UP = 40
WISH = {"model": "m", "messages": [{"role": "user", "content": "In the beginning"}], "max_tokens": 1}


async def ask(app: FastAPI, path: str, body: object, *, key: str) -> Any:
    """Send one request to the app and return the JSON of its answer."""
    raw, parts, is_over = json.dumps(body).encode(), [], asyncio.Event()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [
            (b"host", b"x"),
            (b"authorization", f"Bearer {key}".encode()),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(raw)).encode()),
        ],
        "client": ("127.0.0.1", 1234),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    messages = iter([{"type": "http.request", "body": raw, "more_body": False}])

    async def receive() -> MutableMapping[str, Any]:
        message = next(messages, None)
        if message is None:
            await is_over.wait()
            return {"type": "http.disconnect"}
        return message

    async def send(message: MutableMapping[str, Any]) -> None:
        parts.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            is_over.set()

    await app(scope, receive, send)
    answer = b"".join(part.get("body", b"") for part in parts)
    if parts[0]["status"] >= 300:
        raise SystemExit(answer.decode())
    return json.loads(answer)


async def measure(directory: Path, *, clients: int, requests: int, is_apart: bool) -> dict[str, int]:
    """Open a platform with one tenant and deployment, and ask; return microseconds per request."""
    config = PlatformConfig(data_dir=directory, model_roots=(MODEL.parent,), tiers={"business": LIMITS})
    configure_logging(level=config.log_level)
    platform = await initialize_platform(
        config, launch=launch_in_process, is_audit_required=True, is_bookkeeper_apart=is_apart
    )
    app, admin = create_app(platform), platform.admin_token
    await platform.start()
    wish = {"organization_name": "Bench", "tier": "business"}
    tenant = (await ask(app, "/api/v1/tenants", wish, key=admin))["id"]
    key = (await ask(app, f"/api/v1/tenants/{tenant}/keys", {"name": "k"}, key=admin))["key"]
    await ask(app, "/api/v1/models", {"name": "m", "path": str(MODEL)}, key=key)
    await ask(app, "/api/v1/deployments", {"model": "m"}, key=key)

    async def client(count: int) -> None:
        for _ in range(count):
            await ask(app, "/v1/chat/completions", WISH, key=key)

    await asyncio.gather(*(client(WARM_UP) for _ in range(clients)))
    gc.collect()
    gc.freeze()
    thread, process = time.thread_time(), time.process_time()
    await asyncio.gather(*(client(requests // clients) for _ in range(clients)))
    await platform.books.quotas.usage_of_month(await platform.tenancy.authenticate_request(key))
    await platform.gateway.close()
    spent = {"main, us": time.thread_time() - thread, "process, us": time.process_time() - process}
    await platform.stop()
    return {name: round(1e6 * seconds / (requests // clients * clients)) for name, seconds in spent.items()}


def main() -> None:
    """Print one line for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--one-process", action="store_true")
    options = parser.parse_args()
    # The log's line is written as in production, and no terminal is measured.
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - open as long as the process
    for clients in options.clients:
        with tempfile.TemporaryDirectory() as directory:
            work = measure(
                Path(directory) / "p",
                clients=clients,
                requests=options.requests,
                is_apart=not options.one_process,
            )
            print(json.dumps({"clients": clients, **uvloop.run(work)}), flush=True)


if __name__ == "__main__":
    main()
