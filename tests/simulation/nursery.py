"""Starts scripts in forks of a process that has imported everything: a life costs milliseconds, not seconds.

Reads lines `["script", "argument", ..., "file for what it says"]` and answers with the number of the process.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
from pathlib import Path

import tritium_platform.adapters.metrics
import tritium_platform.adapters.sql.fairuse_store
import tritium_platform.adapters.sql.health_store
import tritium_platform.adapters.sql.migrate
import tritium_platform.adapters.sql.money
import tritium_platform.adapters.sql.settling
import tritium_platform.adapters.sql.tenancy_store
import tritium_platform.gateway  # noqa: F401 - imported for those who are born here


def be_born(script, arguments, said):
    """Become a script, as if Python had been started with it."""
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    status = 1
    try:
        runpy.run_path(script, run_name="__main__")
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def main():
    """Start what is asked for, until nobody asks any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    for line in sys.stdin:
        script, *arguments, said = json.loads(line)
        child = os.fork()
        if child == 0:
            be_born(script, arguments, said)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
