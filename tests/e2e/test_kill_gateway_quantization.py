"""kill -9 of the gateway while a quantization runs: after the restart it is done, and in the books once."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import tritium_test_programs as programs

PATIENCE = 600
# A machine under load stands still at times, and a start takes a minute.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def program(run_program):
    return run_program("up")


def follow(program, key, job, *, until):
    with program.http(key) as http:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            seen = http.get(f"/api/v1/quantizations/{job['id']}").raise_for_status().json()
            if until(seen):
                return seen
            time.sleep(0.05)
    raise AssertionError(seen)


def tool(program, *arguments):
    done = programs.run("tritiumd", *arguments, "--data-dir", program.data_dir, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def logged_entries(program):
    """Return all entries of the audit log as one text; the widest tile holds them all."""
    tiles = [path for path in Path(program.data_dir, "audit").rglob("*") if "entries" in path.parts]
    return max((path.read_bytes() for path in tiles if path.is_file()), key=len)


def test_a_quantization_outlives_the_gateway_and_is_counted_once(program, scripture_llama, calibration_text):
    key = program.open_account()
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
    assert tool(program, "audit", "verify")["is_intact"]
    entries = logged_entries(program)
    assert entries.count(b"quantization.finish") == 1
    assert entries.count(b"quantization.complete") == 1
