"""What machine this is, and whether it is quiet enough to measure on."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

BUSY_SHARE = 0.10  # of all processors, by anybody
STEAL_SHARE = 0.02  # of all processors, by other guests of the host
BUSY_PROCESS = 0.20  # of one processor
SHOWN_FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512vbmi",
    "avx512_vnni",
    "avx512_bf16",
    "gfni",
    "amx_int8",
)


def describe_machine() -> dict[str, Any]:
    """Processor, memory, system, and the commit that is measured."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = dict((part.strip() for part in line.split(":", 1)) for line in cpu.splitlines() if ":" in line)
    flags = set(fields.get("flags", "").split())
    return {
        "processor": fields.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in SHOWN_FLAGS if flag in flags],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "is_changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def noise(seconds: float = 2.0) -> dict[str, Any]:
    """Watch the machine for a while: busy and stolen shares of all processors, load, and who is busy."""
    processes = {p.pid: (p, _cpu_seconds(p)) for p in psutil.process_iter() if p.pid != os.getpid()}
    psutil.cpu_times_percent()
    time.sleep(seconds)
    share = psutil.cpu_times_percent()
    busy = {}
    for process, before in processes.values():
        used = (_cpu_seconds(process) - before) / seconds
        if used > BUSY_PROCESS:
            busy[f"{process.pid} {_name(process)}"] = round(used, 2)
    return {
        "busy_share": round((100 - share.idle - share.iowait) / 100, 3),
        "steal_share": round(share.steal / 100, 3),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "busy_processes": busy,
    }


class OthersWatch:
    """Counts the processor seconds of everybody but this process and the children it has waited for."""

    def __init__(self) -> None:
        self._begin, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def share(self) -> float:
        """Return others' share of all processors since this watch began."""
        others = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        return max(0.0, others / ((time.monotonic() - self._begin) * (os.cpu_count() or 1)))


def complaint(seen: dict[str, Any]) -> str | None:
    """Say why this is no machine to measure on now, or None."""
    if seen["busy_processes"]:
        return f"other processes are at work: {seen['busy_processes']}"
    if seen["steal_share"] > STEAL_SHARE:
        return f"{seen['steal_share']:.0%} of the processors are taken by other guests of the host"
    if seen["busy_share"] > BUSY_SHARE:
        return f"{seen['busy_share']:.0%} of the processors are busy"
    return None


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return "ended"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()
