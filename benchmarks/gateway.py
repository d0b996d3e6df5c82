"""What the road costs: the same requests to the engine's own server and through the gateway, interleaved.

Run: python benchmarks/gateway.py [--rounds 300] [--json]

Both servers serve the same model with one thread. Each round asks both, in random order, at concurrency 1:
a completion of one token in one piece, and the first token of a stream. The overhead is the difference within
a round, so that a slow moment of the machine meets both.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

MODEL = Path(__file__).resolve().parents[1] / "examples" / "models" / "scripture-llama-6m"
WARM_UP = 20
MILLISECONDS = 1000


class Target:
    """One server and a connection that is kept open."""

    def __init__(self, url: str, *, key: str, model: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._model = model

    def ask(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """Send a request and return its JSON."""
        try:
            self._connection.request(method, path, json.dumps(body) if body else None, self._headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if response.status >= 300:
            raise SystemExit(f"{method} {path}: {response.status} {content.decode()}")
        return json.loads(content) if content else {}

    def reconnect(self) -> None:
        """Begin a new connection: an idle one may have been closed."""
        self._connection.close()

    def whole(self) -> float:
        """Return the milliseconds of a completion of one token."""
        started = time.perf_counter()
        self.ask("POST", "/v1/completions", {"model": self._model, "prompt": "In the", "max_tokens": 1})
        return (time.perf_counter() - started) * MILLISECONDS

    def first_token(self) -> float:
        """Return the milliseconds to the first event of a stream of four tokens."""
        body = {"model": self._model, "prompt": "In the", "max_tokens": 4, "stream": True}
        started = time.perf_counter()
        self._connection.request("POST", "/v1/completions", json.dumps(body), self._headers)
        response = self._connection.getresponse()
        response.readline()
        elapsed = (time.perf_counter() - started) * MILLISECONDS
        response.read()
        return elapsed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        engine, direct = start_engine()
        platform, full = start_platform(Path(directory))
        try:
            results = measure(direct, full, rounds=options.rounds)
        finally:
            for process in (engine, platform):
                process.terminate()
                process.wait(60)
    results["load_average"] = os.getloadavg()[0]
    print(json.dumps(results, indent=2) if options.json else as_table(results))


def measure(direct: Target, full: Target, *, rounds: int) -> dict[str, object]:
    """Return, for both kinds of request, percentiles of each target and of the paired difference."""
    for target in (direct, full):
        target.reconnect()
    results: dict[str, object] = {"rounds": rounds}
    for kind in ("whole", "first_token"):
        pairs = [round_of(direct, full, kind=kind) for _ in range(WARM_UP + rounds)][WARM_UP:]
        results[kind] = {
            "direct_ms": percentiles([pair[0] for pair in pairs]),
            "gateway_ms": percentiles([pair[1] for pair in pairs]),
            "overhead_ms": percentiles([pair[1] - pair[0] for pair in pairs]),
        }
    return results


def round_of(direct: Target, full: Target, *, kind: str) -> tuple[float, float]:
    """Ask both in random order; return (direct, gateway) in milliseconds."""
    times: dict[Target, float] = {}
    for target in random.sample([direct, full], 2):
        times[target] = getattr(target, kind)()
    return times[direct], times[full]


def percentiles(values: list[float]) -> dict[str, float]:
    """Return p50 and p99."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3)}


def start_engine() -> tuple[subprocess.Popen[str], Target]:
    """Start `tritium serve`."""
    command = [sys.executable, "-c", "from tritium.cli import main; main()", "serve", str(MODEL)]
    command += ["--port", "0", "--threads", "1", "--name", "m", "--format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    url = json.loads(process.stdout.readline())["url"]
    target = Target(url, key="x", model="m")
    wait_for(lambda: target.ask("GET", "/v1/models"))
    return process, target


def start_platform(directory: Path) -> tuple[subprocess.Popen[str], Target]:
    """Start `tritiumd serve` with one tenant and one deployment."""
    command = [sys.executable, "-m", "tritium_platform.cli", "serve", "--data-dir", str(directory)]
    command += ["--port", "0", "--model-root", str(MODEL.parent), "--format", "json"]
    # The operator's prices and limits as they come; only the limit of the rate is out of the way.
    environment = {**os.environ, "TRITIUM_THREADS_PER_ENGINE": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    facts = json.loads(process.stdout.readline())
    admin = Target(facts["url"], key=facts["admin_key"], model="m")
    wish = {"organization_name": "Benchmark", "tier": "business"}
    tenant_id = admin.ask("POST", "/api/v1/tenants", wish)["id"]
    key = admin.ask("POST", f"/api/v1/tenants/{tenant_id}/keys", {"name": "k"})["key"]
    target = Target(facts["url"], key=str(key), model="m")
    target.ask("POST", "/api/v1/models", {"name": "m", "path": str(MODEL)})
    target.ask("POST", "/api/v1/deployments", {"model": "m"})
    wait_for(lambda: target.ask("GET", "/api/v1/deployments/m")["state"] == "ready")
    return process, target


def wait_for(claim: object) -> None:
    """Wait at most a minute until the claim is true."""
    for _ in range(600):
        try:
            if claim():
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.1)
    raise SystemExit("a server did not become ready")


def as_table(results: dict[str, object]) -> str:
    """Return a Markdown table."""
    lines = ["| request | | p50 ms | p99 ms |", "|---|---|---|---|"]
    for kind, title in (("whole", "one token, in one piece"), ("first_token", "first token of a stream")):
        for row, name in (
            ("direct_ms", "engine alone"),
            ("gateway_ms", "full road"),
            ("overhead_ms", "**overhead**"),
        ):
            cell = results[kind][row]
            lines.append(f"| {title} | {name} | {cell['p50']} | {cell['p99']} |")
    lines.append(f"\n{results['rounds']} rounds, load average {results['load_average']:.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
