"""kill -9 of the gateway while a quantization runs: after the restart it is done, and in the books once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psutil
import pytest

PATIENCE = 120


class Program:
    """`tritiumd up` on one data directory."""

    def __init__(self, data_dir, *, models):
        self.data_dir = data_dir
        self._models = models
        self.process = None
        self.url = ""
        self.admin_key = ""

    def start(self):
        command = [sys.executable, "-m", "tritium_platform.cli", "up", "--data-dir", self.data_dir]
        command += ["--model-root", self._models, "--port", "0", "--format", "json"]
        with (self.data_dir / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        facts = json.loads(self.process.stdout.readline())
        self.url = facts["url"]
        self.admin_key = facts.get("admin_key", self.admin_key)

    def stop(self, number=signal.SIGTERM):
        """Send a signal and wait for the end of the program and of all its children."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        self.process.wait(60)
        self.process.stdout.close()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive

    def tool(self, *arguments):
        command = [sys.executable, "-m", "tritium_platform.cli", *arguments]
        command += ["--data-dir", self.data_dir, "--format", "json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def http(self, key):
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=30)


@pytest.fixture
def program(tmp_path, scripture_llama):
    made = Program(tmp_path, models=scripture_llama.parent)
    made.start()
    yield made
    if made.process.poll() is None:
        made.stop()


def open_account(program):
    with program.http(program.admin_key) as admin:
        wish = {"organization_name": "Acme", "tier": "business"}
        tenant_id = admin.post("/api/v1/tenants", json=wish).raise_for_status().json()["id"]
        key = admin.post(f"/api/v1/tenants/{tenant_id}/keys", json={"name": "k"}).raise_for_status().json()
    return key["key"]


def follow(program, key, job, *, until):
    with program.http(key) as http:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            seen = http.get(f"/api/v1/quantizations/{job['id']}").raise_for_status().json()
            if until(seen):
                return seen
            time.sleep(0.05)
    raise AssertionError(seen)


def logged_entries(program):
    """Return all entries of the audit log as one text; the widest tile holds them all."""
    tiles = [path for path in Path(program.data_dir, "audit").rglob("*") if "entries" in path.parts]
    return max((path.read_bytes() for path in tiles if path.is_file()), key=len)


def test_a_quantization_outlives_the_gateway_and_is_counted_once(program, scripture_llama, calibration_text):
    key = open_account(program)
    with program.http(key) as http:
        config = {"calibration_text": calibration_text, "calibration_tokens": 512}
        wish = {"name": "m", "source": {"path": str(scripture_llama)}, "config": config}
        job = http.post("/api/v1/quantizations", json=wish).raise_for_status().json()
    before = follow(program, key, job, until=lambda seen: seen["finished_layers"] > 2)
    assert before["state"] == "running"
    program.stop(signal.SIGKILL)

    program.start()
    done = follow(program, key, job, until=lambda seen: seen["state"] in {"succeeded", "failed"})
    assert done["state"] == "succeeded", done
    kept = {layer["index"]: layer for layer in done["layers"]}
    assert all(kept[layer["index"]] == layer for layer in before["layers"]), "a finished layer was done again"
    with program.http(key) as http:
        records = http.get("/api/v1/usage").raise_for_status().json()["records"]
        storage = http.get("/api/v1/account").raise_for_status().json()["storage"]
        model = http.get("/api/v1/models/m").raise_for_status().json()
    program.stop()

    counted = [record["quantities"]["quantized_parameters"] for record in records]
    assert sorted(counted) == [0, 4_718_592]  # the accepted request, and the work
    assert 0 < model["size_bytes"] <= storage["used"]
    assert storage["held"] == 0
    assert program.tool("audit", "verify")["is_intact"]
    entries = logged_entries(program)
    assert entries.count(b"quantization.finish") == 1
    assert entries.count(b"quantization.complete") == 1
