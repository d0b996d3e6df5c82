"""Measures loading: seconds from nothing to the first token, and the memory a running model takes.

    python benchmarks/load.py [--shape 2b4t] [--rounds 3]

Writes a random native model (random_models.py) into a temporary directory, 1.1 GB for 2b4t. Every measurement
is a fresh process. "cold" drops the files from the page cache first (posix_fadvise), "warm" reads them once
before; the time to read the weights file alone, in pieces of 4 MiB, is measured in the same state, in turns.
Memory: resident pages after the first token, anonymous and of files; the peak of both together. It is held
against the bytes of the weights file plus the KV cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from random_models import SHAPES, write_random_model

KV_BYTES = 64 << 20
PIECE = 4 << 20
GIGA = 1e9
MIB = 1 << 20


def work(model: str, threads: int, started: float, *, verify: bool) -> None:
    """Load the model and print what it took, as JSON; `started` is when the process was asked for."""
    imports = time.time()
    from tritium import LLM, SamplingParams  # noqa: PLC0415 - the import is part of what is measured
    from tritium.engine import loading  # noqa: PLC0415
    from tritium.engine.config import EngineConfig  # noqa: PLC0415

    if not verify:
        load = loading.load_model
        loading.load_model = lambda source, threads=None: load(source, threads=threads, verify=False)
    called = time.time()
    llm = LLM(model, threads=threads, config=EngineConfig(kv_cache_bytes=KV_BYTES))
    loaded = time.time()
    next(iter(llm.stream([1, 2, 3], sampling=SamplingParams(max_tokens=2, temperature=0))))
    first = time.time()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kibibytes = {name: int(status[name].split()[0]) for name in ("VmRSS", "RssAnon", "RssFile")}
    print(
        json.dumps(
            {
                "start": imports - started,
                "import": called - imports,
                "load": loaded - called,
                "first token": first - loaded,
                "from call": first - called,
                "from process start": first - started,
                "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                **{name: 1024 * size for name, size in kibibytes.items()},
            }
        )
    )


def drop(directory: Path) -> None:
    """Drop the files from the page cache."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_seconds(path: Path) -> float:
    """Seconds to read a file once, into one small buffer."""
    buffer = bytearray(PIECE)
    begin = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - begin


def measured(model: Path, threads: int, *, is_cold: bool, verify: bool) -> dict[str, float]:
    """Return the figures of one fresh process."""
    weights = model / "model.safetensors"
    if is_cold:
        drop(model)
    read = read_seconds(weights)
    if is_cold:
        drop(model)
    options = [] if verify else ["--no-verify"]
    command = [sys.executable, __file__, "--work", str(model), str(threads), repr(time.time()), *options]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"read": read, **found}


def show(model: Path, *, rounds: int) -> None:
    """Print one row for each state, with and without the hashes, 1 and 2 threads."""
    packed = (model / "model.safetensors").stat().st_size
    print(f"weights file {packed / MIB:.0f} MiB, KV cache {KV_BYTES / MIB:.0f} MiB")
    columns = ("read", "start", "import", "load", "first token", "from call", "from process start")
    memory = ("VmRSS", "RssAnon", "RssFile", "peak")
    names = [
        *(f"{name}, s" for name in columns),
        *(f"{name}, MiB" for name in memory),
        "over packed + KV, MiB",
    ]
    print(f"| files | hashed | threads | {' | '.join(names)} |")
    print("|---" * (3 + len(names)) + "|")
    states = [
        (cold, verify, threads) for cold in (True, False) for verify in (True, False) for threads in (1, 2)
    ]
    found: dict[tuple[bool, bool, int], list[dict[str, float]]] = {state: [] for state in states}
    for _ in range(rounds):
        for cold, verify, threads in states:
            found[cold, verify, threads].append(measured(model, threads, is_cold=cold, verify=verify))
    for (cold, verify, threads), runs in found.items():
        middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        cells = [f"{middle[name]:.2f}" for name in columns] + [f"{middle[name] / MIB:.0f}" for name in memory]
        over = (middle["VmRSS"] - packed - KV_BYTES) / MIB
        state = "cold" if cold else "warm"
        print(f"| {state} | {'yes' if verify else 'no'} | {threads} | {' | '.join(cells)} | {over:.0f} |")


def main() -> None:
    """Print the table, or do the work of one measured process."""
    if len(sys.argv) > 1 and sys.argv[1] == "--work":
        model, threads, started, *options = sys.argv[2:]
        work(model, int(threads), float(started), verify="--no-verify" not in options)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="2b4t")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a native model that is there already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or Path(folder) / options.shape
        if options.model is None:
            write_random_model(model, SHAPES[options.shape])
        show(model, rounds=options.rounds)


if __name__ == "__main__":
    main()
