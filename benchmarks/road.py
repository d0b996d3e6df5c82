"""What the whole road costs beside the engine alone, and beside LiteLLM's proxy, with one mock model.

    python benchmarks/road.py [latency] [throughput] [streams] [--litellm .venv-litellm/bin/litellm]

latency     one request after the other, every target once per round in random order; the added latency is the
            difference within a round: platform - library's server, litellm - bare upstream.
throughput  a closed loop of N clients for a few seconds, N growing; the highest rate with p99 <= 10 ms, and
            the processor time of the server's processes per request.
streams     N streams at once, 10 tokens a second each: every token counted, the longest silence of any.

The load generator is one more process on the same cores. The platform authenticates, checks rates, takes from
the month's quota, records and audits every request durably; the proxy has neither a database nor keys but its
master key. `mock_model.py` has the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
import uvloop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).resolve().parent
TITLES = {
    "direct": "library's server (engine alone)",
    "platform": "platform, engine process",
    "in-process": "platform, engine in the gateway",
    "one-process": "platform, engine in the gateway, books written by the gateway",
    "transactions": "platform, engine in the gateway, two database transactions in the place of the spool",
    "upstream": "bare upstream",
    "litellm": "LiteLLM proxy",
    "disk": "one synced write to this disk",
}
INSIDE = ("in-process", "one-process", "transactions")  # what is in the gateway's process, see mock_model.py
BASELINE = {**dict.fromkeys(("platform", *INSIDE), "direct"), "litellm": "upstream"}
CLIENTS = (1, 2, 4, 8, 16, 32)
P99_LIMIT_MS = 10.0
WARM_UP = 100
STALL_SECONDS = 1.0
TOKEN, FRAME = b" word", b'"content":" word'


@dataclass
class Target:
    """A server under load, and the bytes of one request to it."""

    name: str
    url: str
    key: str
    model: str = "m"
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    def processor_seconds(self) -> float:
        """Return the processor time that its processes have used."""
        parents = [psutil.Process(process.pid) for process in self.processes]
        family = [each for parent in parents for each in (parent, *parent.children(recursive=True))]
        return sum(sum(each.cpu_times()[:2]) for each in family)

    def request(self, *, max_tokens: int, is_stream: bool = False) -> bytes:
        """Return a chat request."""
        wish = {
            "model": self.model,
            "messages": [{"role": "user", "content": "In the beginning"}],
            "max_tokens": max_tokens,
            **({"stream": True} if is_stream else {}),
        }
        body = json.dumps(wish).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def api(self, method: str, path: str, body: object = None, *, key: str | None = None) -> dict:
        """Ask the management API."""
        asked = urllib.request.Request(  # noqa: S310 - our own server
            self.url + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"authorization": f"Bearer {key or self.key}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310 - our own server
            return json.loads(answer.read() or b"{}")


class Connection:
    """One blocking connection: the least that can stand between a clock and a server."""

    def __init__(self, target: Target) -> None:
        self._socket = socket.create_connection(target.address, timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = target.request(max_tokens=1)

    def milliseconds(self) -> float:
        """Ask once and return the time to the last byte."""
        started = time.perf_counter()
        self._socket.sendall(self._request)
        seen = b""
        while (size := answer_size(seen)) is None or len(seen) < size:
            part = self._socket.recv(65_536)
            if not part:
                raise SystemExit(f"the server hung up: {seen[:300]!r}")
            seen += part
        elapsed = (time.perf_counter() - started) * 1000
        if not seen.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"refused: {seen[:600]!r}")
        return elapsed


def answer_size(seen: bytes) -> int | None:
    """Return the size of the answer that begins with these bytes, None while its head is not complete."""
    head, gap, _ = seen.partition(b"\r\n\r\n")
    if not gap:
        return None
    length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
    return len(head) + len(gap) + int(length)


class SyncedFile:
    """A file that grows by one record and is synced: what durability alone costs on this disk."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / "synced", os.O_WRONLY | os.O_CREAT)

    def milliseconds(self) -> float:
        """Write a record of 900 bytes and return the time until it is on the disk."""
        started = time.perf_counter()
        os.write(self._descriptor, bytes(900))
        os.fdatasync(self._descriptor)
        return (time.perf_counter() - started) * 1000


def latency(
    targets: Sequence[Target], *, rounds: int, directory: Path
) -> dict[str, dict[str, dict[str, float]]]:
    """Ask every target once per round, in random order."""
    connections: dict[str, Connection | SyncedFile] = {each.name: Connection(each) for each in targets}
    connections["disk"] = SyncedFile(directory)
    times: dict[str, list[float]] = {name: [] for name in connections}
    for number in range(WARM_UP + rounds):
        for name in random.sample(list(connections), len(connections)):
            elapsed = connections[name].milliseconds()
            if number >= WARM_UP:
                times[name].append(elapsed)
    found = {name: {"whole": percentiles(values)} for name, values in times.items()}
    for name, baseline in BASELINE.items():
        if name in times and baseline in times:
            pairs = zip(times[name], times[baseline], strict=True)
            found[name]["added"] = percentiles([mine - alone for mine, alone in pairs])
            cost = {
                each: found[name]["whole"][each] - found[baseline]["whole"][each] for each in ("p50", "p99")
            }
            found[name]["added of percentiles"] = {each: round(value, 3) for each, value in cost.items()}
    return found


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50 and p99."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3)}


class LoadedConnection(asyncio.Protocol):
    """One client of a closed loop: asks again as soon as it has its answer."""

    def __init__(self, request: bytes, times: list[float], *, until: float) -> None:
        self._request, self._times, self._until = request, times, until
        self._seen = bytearray()
        self._size: int | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        self._seen += data
        if self._size is None:
            self._size = answer_size(bytes(self._seen))
        if self._size is None or len(self._seen) < self._size:
            return
        if not self._seen.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(SystemExit(f"refused: {bytes(self._seen[:600])!r}"))
            return
        now = time.perf_counter()
        self._times.append((now - self._started) * 1000)
        if now < self._until:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail if the answer is missing."""
        if not self.done.done():
            self.done.set_exception(error or SystemExit("the server hung up"))

    def _ask(self) -> None:
        self._seen.clear()
        self._size = None
        self._started = time.perf_counter()
        self._transport.write(self._request)


async def closed_loop(target: Target, *, clients: int, seconds: float) -> dict[str, float]:
    """Let clients ask for some seconds; return rate and percentiles."""
    times: list[float] = []
    used = target.processor_seconds()
    started = time.perf_counter()
    loop, request = asyncio.get_running_loop(), target.request(max_tokens=1)
    pairs = [
        await loop.create_connection(
            lambda: LoadedConnection(request, times, until=started + seconds), *target.address
        )
        for _ in range(clients)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in pairs))
    rate = round(len(times) / (time.perf_counter() - started))
    used = 1e6 * (target.processor_seconds() - used) / len(times)
    return {"rate": rate, "processor us": round(used), **percentiles(times)}


def throughput(targets: Sequence[Target], *, seconds: float) -> dict[str, dict[str, object]]:
    """Find the highest rate of each target with p99 <= 10 ms."""
    found: dict[str, dict[str, object]] = {target.name: {"best": 0, "at": {}} for target in targets}
    for clients in CLIENTS:
        for target in random.sample(list(targets), len(targets)):
            result = uvloop.run(closed_loop(target, clients=clients, seconds=seconds))
            mine = found[target.name]
            mine["at"][clients] = result
            if result["p99"] <= P99_LIMIT_MS:
                mine["best"] = max(int(mine["best"]), result["rate"])
    return found


class Stream(asyncio.Protocol):
    """One streaming client; counts tokens and frames, notes its wait for the first and its longest silence.

    A frame holds what came while its stream waited for its turn: one token, or several.
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.tokens, self.frames, self.is_complete = 0, 0, False
        self.first, self.silence = math.inf, 0.0
        self._tail = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = transport
        self._last = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count what is in a part; each token is the text " word", each frame with text begins with it."""
        text = self._tail + data
        now = time.perf_counter()
        if self.tokens:
            self.silence = max(self.silence, now - self._last)
        elif TOKEN in text:
            self.first = now - self._last
        if TOKEN in text:
            self._last = now
        self.tokens += text.count(TOKEN)
        self.frames += text.count(FRAME)
        self._tail = max((begun(text, FRAME), begun(text, TOKEN)), key=len)
        if b"data: [DONE]" in text:
            self.is_complete = True
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - what is missing is counted
        """Be over, however it ended."""
        if not self.done.done():
            self.done.set_result(None)


def begun(text: bytes, wanted: bytes) -> bytes:
    """Return the end of a text that may be the beginning of what is wanted."""
    sizes = range(len(wanted) - 1, 0, -1)
    return next((wanted[:size] for size in sizes if text.endswith(wanted[:size])), b"")


async def stream_all(target: Target, *, clients: int, tokens: int, arrivals: float) -> dict[str, object]:
    """Run streams side by side, some more every second until all are there."""
    request = target.request(max_tokens=tokens, is_stream=True)
    loop, used = asyncio.get_running_loop(), target.processor_seconds()

    async def one(number: int) -> Stream:
        await asyncio.sleep(number / arrivals)
        _, stream = await loop.create_connection(lambda: Stream(request), *target.address)
        await stream.done
        return stream

    results = await asyncio.gather(*(one(number) for number in range(clients)), return_exceptions=True)
    streams = [each for each in results if isinstance(each, Stream)]
    return {
        "clients": clients,
        "tokens": sum(stream.tokens for stream in streams),
        "wanted": clients * tokens,
        "frames": sum(stream.frames for stream in streams),
        "complete": sum(stream.is_complete for stream in streams),
        "errors": len(results) - len(streams),
        "stalled over 1 s": sum(stream.silence > STALL_SECONDS for stream in streams),
        "processor us per token": round(1e6 * (target.processor_seconds() - used) / (clients * tokens)),
        "longest silence": round(max(stream.silence for stream in streams), 3),
        "first token": percentiles([stream.first for stream in streams]),
    }


def start(*command: str | Path, **environment: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """Start a server that says in a line of JSON where it is."""
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )
    return process, json.loads(process.stdout.readline())


def start_mock(role: str, *options: str | Path, interval: float = 0.0) -> Target:
    """Start one of the servers of `mock_model.py`."""
    command = (sys.executable, HERE / "mock_model.py", role, *options)
    process, facts = start(*command, TRITIUM_MOCK_INTERVAL=str(interval))
    return Target(role, facts["url"], facts["key"], processes=[process])


def start_platform(
    directory: Path, *, name: str = "platform", interval: float = 0.0, database_url: str | None = None
) -> Target:
    """Start the platform, with a tenant and a deployment."""
    options: list[str | Path] = ["--data-dir", directory]
    options += ["--in-process"] if name in INSIDE else []
    options += [f"--{name}"] if name in {"one-process", "transactions"} else []
    options += ["--database-url", database_url] if database_url else []
    target = start_mock("platform", *options, interval=interval)
    admin, target.name = target.key, name
    tenant = target.api("POST", "/api/v1/tenants", {"organization_name": "Bench", "tier": "business"})["id"]
    made = target.api("POST", f"/api/v1/tenants/{tenant}/keys", {"name": "k"}, key=admin)
    target.key = str(made["key"])
    model = HERE.parent / "examples" / "models" / "scripture-llama-6m"
    target.api("POST", "/api/v1/models", {"name": "m", "path": str(model)})
    target.api("POST", "/api/v1/deployments", {"model": "m"})
    wait_for(lambda: target.api("GET", "/api/v1/deployments/m")["state"] == "ready")
    return target


def start_litellm(program: Path, *, upstream: Target, directory: Path) -> Target:
    """Start LiteLLM's proxy with one worker in front of the bare upstream."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {
        "model_list": [
            {
                "model_name": "m",
                "litellm_params": {"model": "openai/m", "api_base": f"{upstream.url}/v1", "api_key": "x"},
            }
        ],
        "general_settings": {"master_key": "sk-bench"},
    }
    (directory / "litellm.json").write_text(json.dumps(config))
    command = [program, "--config", directory / "litellm.json", "--host", "127.0.0.1", "--port", str(port)]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    process = subprocess.Popen(
        list(map(str, [*command, "--num_workers", "1", "--telemetry", "False"])),
        stdout=(directory / "litellm.log").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    target = Target("litellm", f"http://127.0.0.1:{port}", "sk-bench", processes=[process])
    wait_for(lambda: Connection(target).milliseconds() > 0)
    return target


def wait_for(claim: object) -> None:
    """Wait at most two minutes until the claim is true."""
    for _ in range(1200):
        with contextlib.suppress(OSError, SystemExit):
            if claim():
                return
        time.sleep(0.1)
    raise SystemExit("a server did not become ready")


@contextlib.contextmanager
def running(directory: Path, options: argparse.Namespace, *, interval: float) -> Iterator[list[Target]]:
    """Start all targets; stop them afterwards."""
    targets: list[Target] = []
    directory.mkdir()
    try:
        targets.append(start_mock("direct", interval=interval))
        targets.append(start_platform(directory / "p", interval=interval, database_url=options.database_url))
        if not interval:
            targets += [start_platform(directory / name, name=name) for name in INSIDE]
        if options.litellm and not interval:
            targets.append(start_mock("upstream"))
            targets.append(start_litellm(options.litellm, upstream=targets[-1], directory=directory))
        yield targets
    finally:
        for target in targets:
            for process in target.processes:
                process.terminate()
                process.wait(30)


def main() -> None:
    """Measure what was asked for and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["latency", "throughput", "streams"])
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--clients", type=int, nargs="*", default=[1000, 2000])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--arrivals", type=float, default=200.0, help="streams that begin in a second")
    parser.add_argument("--database-url", help="of the platform; an empty database")
    parser.add_argument("--litellm", type=Path, help="the program, in an environment of its own")
    options = parser.parse_args()
    results: dict[str, object] = {"load average before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        if {"latency", "throughput"} & set(options.parts):
            with running(Path(name) / "a", options, interval=0.0) as targets:
                if "latency" in options.parts:
                    results["latency, ms"] = latency(targets, rounds=options.rounds, directory=Path(name))
                if "throughput" in options.parts:
                    results["throughput, requests/s"] = throughput(targets, seconds=options.seconds)
        if "streams" in options.parts:
            with running(Path(name) / "b", options, interval=0.1) as targets:
                results["streams"] = {
                    target.name: [
                        uvloop.run(
                            stream_all(
                                target, clients=clients, tokens=options.tokens, arrivals=options.arrivals
                            )
                        )
                        for clients in options.clients
                    ]
                    for target in targets
                }
    results["load average after"] = os.getloadavg()[0]
    print(json.dumps({TITLES.get(key, key): value for key, value in results.items()}, indent=2))


if __name__ == "__main__":
    main()
