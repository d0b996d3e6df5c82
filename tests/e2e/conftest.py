"""Platforms that run, for the tests of this folder."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import httpx2
import psutil
import pytest
import tritium_test_programs as programs

HARNESS = Path(__file__).resolve().parents[1] / "integration" / "harness.py"


def load_harness():
    """Load the harness once, by its path."""
    if "tritium_test_harness" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tritium_test_harness", HARNESS)
        module = importlib.util.module_from_spec(spec)
        sys.modules["tritium_test_harness"] = module
        spec.loader.exec_module(module)
    return sys.modules["tritium_test_harness"]


@pytest.fixture(scope="session")
def harness():
    """What starts platforms and asks them."""
    return load_harness()


@pytest.fixture(scope="module")
def running(tmp_path_factory, harness):
    """A platform on SQLite that the tests of one file share."""
    platform, stop = harness.serve(harness.platform_config(tmp_path_factory.mktemp("platform")))
    yield platform
    stop()


class Program:
    """A command of `tritiumd` that serves one data directory, with `environment` beside the test's own."""

    def __init__(self, command, data_dir, *, models, environment):
        self.data_dir = data_dir
        self._command = ["tritiumd", command, "--data-dir", data_dir]
        self._command += ["--model-root", models, "--port", "0", "--format", "json"]
        self._environment = {**os.environ, **environment}
        self.process = None
        self.url = ""
        self.admin_key = ""

    def start(self):
        self.process = programs.start(
            *self._command, log=self.data_dir / "log", environment=self._environment
        )
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

    def http(self, key):
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=30)

    def open_account(self):
        """Make a tenant, and return its key."""
        with self.http(self.admin_key) as admin:
            wish = {"organization_name": "Acme", "tier": "business"}
            tenant_id = admin.post("/api/v1/tenants", json=wish).raise_for_status().json()["id"]
            made = admin.post(f"/api/v1/tenants/{tenant_id}/keys", json={"name": "k"}).raise_for_status()
        return made.json()["key"]


@pytest.fixture
def run_program(tmp_path, scripture_llama):
    """What starts a program on a fresh directory; it is stopped when the test is over."""
    started = []

    def run(command, **environment):
        started.append(Program(command, tmp_path, models=scripture_llama.parent, environment=environment))
        started[-1].start()
        return started[-1]

    yield run
    for program in started:
        if program.process.poll() is None:
            program.stop()
