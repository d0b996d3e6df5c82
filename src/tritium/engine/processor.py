"""What the system gave this process of its processors: its own time, and what others took."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.resources import system_text

if TYPE_CHECKING:
    from collections.abc import Callable

_CPU_COLUMNS = 8  # user, nice, system, idle, iowait, irq, softirq, steal
_STEAL = 7
_GROUPS = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorReading:
    """Counters since some beginning; only differences mean something.

    Attributes:
        process_seconds: processor time of this process, all threads.
        ticks: time of all processors, in ticks; `stolen_ticks` of them the host gave to other machines.
        throttled_seconds: how long the control group was stopped because its quota was used up.
    """

    process_seconds: float = 0.0
    ticks: int = 0
    stolen_ticks: int = 0
    throttled_seconds: float = 0.0


def read_processor(
    read: Callable[[str], str | None] = system_text, *, process_time: Callable[[], float] = time.process_time
) -> ProcessorReading:
    """Return the counters now; what the system does not tell is 0."""
    columns = ((read("/proc/stat") or "").partition("\n")[0]).split()[1 : 1 + _CPU_COLUMNS]
    ticks = [int(column) for column in columns] if all(map(str.isdigit, columns)) else []
    return ProcessorReading(
        process_seconds=process_time(),
        ticks=sum(ticks),
        stolen_ticks=ticks[_STEAL] if len(ticks) == _CPU_COLUMNS else 0,
        throttled_seconds=_throttled_seconds(read),
    )


def _throttled_seconds(read: Callable[[str], str | None]) -> float:
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            roots, name, unit = (_GROUPS, f"{_GROUPS}/unified"), "throttled_usec", 1e-6
        elif "cpu" in controllers.split(","):
            roots, name, unit = (f"{_GROUPS}/{controllers}", f"{_GROUPS}/cpu"), "throttled_time", 1e-9
        else:
            continue
        for root in roots:
            for place in (f"{root}{path.rstrip('/')}", root):
                for row in (read(f"{place}/cpu.stat") or "").splitlines():
                    key, _, value = row.partition(" ")
                    if key == name and value.isdigit():
                        return int(value) * unit
    return 0.0
