"""A whole platform with a real database, real engine processes and a real HTTP port.

Loaded by path from the conftest.py of the suites that need it: test folders are not packages.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import uvicorn

from tritium_platform.api.app import create_app
from tritium_platform.compose import Platform, initialize_platform
from tritium_platform.config import PlatformConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

EXAMPLE_MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"


@dataclass
class RunningPlatform:
    """A served platform; the loop it runs in has a thread of its own."""

    url: str
    platform: Platform
    loop: asyncio.AbstractEventLoop
    clients: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def run(self, work: Any) -> Any:
        """Await something in the platform's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def admin(self) -> httpx2.Client:
        """Return a client with the operator's key."""
        return httpx2.Client(
            base_url=self.url, headers={"authorization": f"Bearer {self.platform.admin_token}"}, timeout=60
        )

    def tenant(self, *, name: str = "Acme", tier: str = "developer", **overrides: int) -> tuple[str, str]:
        """Create a tenant with one key; return (tenant id, key)."""
        with self.admin() as client:
            body = {"organization_name": name, "tier": tier, "limit_overrides": overrides}
            tenant_id = client.post("/api/v1/tenants", json=body).raise_for_status().json()["id"]
            made = client.post(f"/api/v1/tenants/{tenant_id}/keys", json={"name": "test"}).raise_for_status()
            return tenant_id, made.json()["key"]

    def http(self, key: str) -> httpx2.Client:
        """Return a plain client of a tenant."""
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=60)

    def openai(self, key: str) -> openai.OpenAI:
        """Return the official client of a tenant, without its own retries; it is closed with the platform."""
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)
        return self.clients.enter_context(client)

    def deploy(
        self, key: str, *, path: Path = EXAMPLE_MODELS / "scripture-bitnet-6m-bitlinear", replicas: int = 1
    ) -> str:
        """Register and deploy a model, wait until it is ready, and return its name."""
        model = path.name
        with self.http(key) as client:
            client.post("/api/v1/models", json={"name": model, "path": str(path)}).raise_for_status()
            client.post("/api/v1/deployments", json={"model": model, "replicas": replicas}).raise_for_status()
            self.wait_ready(key, model)
        return model

    def wait_ready(self, key: str, deployment: str) -> None:
        """Wait until a deployment is ready."""
        deadline = time.monotonic() + 120
        with self.http(key) as client:
            while time.monotonic() < deadline:
                state = client.get(f"/api/v1/deployments/{deployment}").raise_for_status().json()
                if state["state"] == "ready":
                    return
                time.sleep(0.05)
        raise AssertionError(state)


def platform_config(data_dir: Path, **values: Any) -> PlatformConfig:
    """Return a configuration for tests: one thread per engine, the examples as allowed root."""
    return PlatformConfig(
        **{
            "data_dir": data_dir,
            "model_roots": (EXAMPLE_MODELS,),
            "threads_per_engine": 1,
            "drain_seconds": 5.0,
            **values,
        }
    )


def serve(config: PlatformConfig) -> tuple[RunningPlatform, Any]:
    """Start a platform in a thread; return it and a function that stops it."""
    started = threading.Event()
    shared: dict[str, Any] = {}

    async def main() -> None:
        platform = await initialize_platform(config)
        server = uvicorn.Server(uvicorn.Config(create_app(platform), log_config=None, access_log=False))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            shared.update(platform=platform, server=server, loop=asyncio.get_running_loop(), port=port)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            started.set()
            await serving

    def guarded() -> None:
        try:
            asyncio.run(main())
        finally:
            started.set()

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    started.wait(60)

    url = f"http://127.0.0.1:{shared['port']}"
    running = RunningPlatform(url=url, platform=shared["platform"], loop=shared["loop"])

    def stop() -> None:
        running.clients.close()
        shared["server"].should_exit = True
        thread.join(60)

    return running, stop


def replica_process_ids(running: RunningPlatform) -> list[int]:
    """Return the process ids of all engines."""
    return [status.process_id for status in running.platform.deployments.all_statuses() if status.process_id]


@contextlib.contextmanager
def stopped(process_ids: Iterable[int]) -> Iterator[None]:
    """Stop processes and let them go on afterwards: what waits for them cannot end meanwhile."""
    stopped_ids = list(process_ids)
    for process_id in stopped_ids:
        os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        for process_id in stopped_ids:
            os.kill(process_id, signal.SIGCONT)


def wait_until(claim: Any, *, seconds: float = 120.0) -> None:
    """Wait until a claim is true; fail if it never is. A machine under load stands still at times."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if claim():
            return
        time.sleep(0.05)
    raise AssertionError("what was waited for did not happen")
