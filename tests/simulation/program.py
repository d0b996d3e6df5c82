"""`tritiumd up` as an operator runs it, its children, and ways to lose them.

Loaded by path from conftest.py: test folders are not packages.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import httpx2
import psutil

START_SECONDS = 90
WORKERS = "tritium_platform.worker"
CHILDREN = {"engine": f"{WORKERS}.engine_main", "worker": f"{WORKERS}.quantization_main"}


class Program:
    """One data directory, and the processes that work on it."""

    def __init__(self, data_dir, *, model_roots, database_url):
        self.data_dir = data_dir
        self.database_url = database_url
        self.process = None
        self.url = ""
        self.admin_key = ""
        self.starts = 0
        self._roots = model_roots
        self._environment = {name: value for name, value in os.environ.items() if name[:8] != "TRITIUM_"}
        self._environment |= {"TRITIUM_THREADS_PER_ENGINE": "1", "TRITIUM_RESERVATION_SECONDS": "3"}
        if database_url:
            self._environment["TRITIUM_DATABASE_URL"] = database_url

    def start(self, *, killed_after=None):
        """Start it; with `killed_after` seconds it is killed in the middle of that, and started again."""
        if killed_after is not None:
            self._spawn()
            deadly = threading.Timer(killed_after, self.process.kill)
            deadly.start()
            self.process.stdout.read()  # until everybody who could write to it is dead
            deadly.join()
            self._reap()
        self._spawn()
        overdue = threading.Timer(START_SECONDS, self.process.kill)
        overdue.start()
        line = self.process.stdout.readline()
        overdue.cancel()
        assert line, f"tritiumd did not start; see {self.data_dir / 'log'}"
        facts = json.loads(line)
        self.url = facts["url"]
        self.admin_key = facts.get("admin_key") or self._kept_admin_key()

    def kill(self):
        """Kill the gateway; return its children, who have to notice by themselves."""
        children = self.children()
        self.process.kill()
        self._reap()
        return children

    def stop(self):
        """Ask it to end, and return its exit code; fail if a child stays behind."""
        children = self.children()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.process.stdout.close()
        require_gone(children)
        return code

    def children(self):
        """Return the processes below the gateway."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill_child(self, kind, *, choose):
        """Kill one engine or the worker; False if there is none at this moment."""
        found = [child for child in self.children() if is_of(child, CHILDREN[kind])]
        if found:
            os.kill(choose(found).pid, signal.SIGKILL)
        return bool(found)

    def resident_bytes(self):
        """Return the gateway's resident memory; None while there is no gateway."""
        try:
            return psutil.Process(self.process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return None

    def http(self, key, *, timeout=30):
        """Return a plain client of the server that runs now."""
        headers = {"authorization": f"Bearer {key}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=timeout)

    def tool(self, *arguments):
        """Run a command of `tritiumd` on the same data directory; return its JSON."""
        command = [sys.executable, "-m", "tritium_platform.cli", *arguments]
        command += ["--data-dir", self.data_dir, "--format", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self._environment)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    def _spawn(self):
        self.starts += 1
        command = [sys.executable, "-m", "tritium_platform.cli", "up", "--data-dir", self.data_dir]
        command += ["--port", "0", "--format", "json"]
        for root in self._roots:
            command += ["--model-root", root]
        with (self.data_dir / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, env=self._environment
            )

    def _reap(self):
        self.process.wait(10)
        self.process.stdout.close()

    def _kept_admin_key(self):
        # The first start may have been killed before it could say the key.
        return "btn_admin_" + (self.data_dir / "secrets" / "admin_key").read_bytes().hex()


def is_of(process, module):
    """Tell whether a process runs this module."""
    try:
        return module in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def require_gone(children):
    """Fail if one of these processes outlives the gateway for long."""
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, f"these outlived the gateway: {alive}"


def wait_until(claim, *, seconds, what):
    """Wait until a claim is true; a server that is away meanwhile makes it untrue."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if claim():
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")
