"""What memory this process may use and how much of it is left: read from the system, never estimated."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

try:
    import resource
except ImportError:  # not on every system
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    ReadText = Callable[[str], str | None]

_KIBI = 1024
_GROUPS = "/sys/fs/cgroup"
# Where work stands still for memory so much of the time, it is as if nothing were left.
_STALLED_FULLY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """One limit of memory and what is used of it, in bytes.

    Attributes:
        name: whose limit it is: the machine's memory, a control group's, or that of the address space.
        used_bytes: without what the system can take back at once (files read and not used any more).
    """

    name: Literal["machine", "group", "address_space"]
    limit_bytes: int
    used_bytes: int

    @property
    def used_share(self) -> float:
        """The used share of the limit; 1 where the limit is 0."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 1.0

    def headroom_bytes(self, share: float) -> int:
        """Return how much more can be used until so large a share is; 0 if it is already."""
        return max(0, int(share * self.limit_bytes) - self.used_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReading:
    """The memory of this process at one moment.

    Attributes:
        budgets: every limit that the system tells of.
        resident_bytes: what the process has in memory; None where the system does not say.
        stalled: the share of the last ten seconds in which work stood still for want of memory (the kernel's
            pressure stall information); None likewise.
    """

    budgets: tuple[MemoryBudget, ...] = ()
    resident_bytes: int | None = None
    stalled: float | None = None

    def pressure(self, *, needed_bytes: int) -> float:
        """Return how short memory is, from 0 to 1 and above: the used share of the tightest limit.

        Limits that leave more than is needed do not count: nine tenths of a large machine may be in use. If
        they are more, the stalls count: a tenth of the time is 1.

        Args:
            needed_bytes: what the process could still come to take.
        """
        tight = (budget for budget in self.budgets if budget.headroom_bytes(1.0) < needed_bytes)
        used = max((budget.used_share for budget in tight), default=0.0)
        return max(used, min(1.0, (self.stalled or 0.0) / _STALLED_FULLY))

    def headroom_bytes(self, share: float) -> int | None:
        """Return how much more can be used until so large a share of any limit is; None without a limit."""
        return min((budget.headroom_bytes(share) for budget in self.budgets), default=None)


def system_text(path: str) -> str | None:
    """Return the text of a file of the system; None if there is none."""
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def system_address_limit() -> int | None:
    """Return the limit of this process's address space in bytes; None if it has none."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def read_memory(
    read: ReadText = system_text, *, address_limit: Callable[[], int | None] = system_address_limit
) -> MemoryReading:
    """Return the memory of this process now; what the system does not tell is left out.

    Args:
        read: returns the text of a file of the system, None if there is none.
        address_limit: returns the limit of the address space, None if there is none.
    """
    sizes = _process_sizes(read)
    machine = _machine(read)
    budgets = [] if machine is None else [machine]
    most = None if machine is None else machine.limit_bytes
    budgets += [group for group in _groups(read) if most is None or group.limit_bytes < most]
    limit = address_limit()
    if sizes is not None and limit is not None:
        budgets.append(MemoryBudget(name="address_space", limit_bytes=limit, used_bytes=sizes[0]))
    return MemoryReading(
        budgets=tuple(budgets),
        resident_bytes=None if sizes is None else sizes[1],
        stalled=_stalled(read),
    )


def _process_sizes(read: ReadText) -> tuple[int, int] | None:
    """Return the address space and the resident memory of this process in bytes."""
    parts = (read("/proc/self/statm") or "").split()
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):  # noqa: PLR2004 - those two
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    return int(parts[0]) * page, int(parts[1]) * page


def _machine(read: ReadText) -> MemoryBudget | None:
    fields = _fields(read("/proc/meminfo"))
    total, available = fields.get("MemTotal:"), fields.get("MemAvailable:")
    if total is None or available is None:
        return None
    return MemoryBudget(
        name="machine", limit_bytes=total * _KIBI, used_bytes=max(0, total - available) * _KIBI
    )


def _groups(read: ReadText) -> Iterator[MemoryBudget]:
    """Yield the limits of this process's control group and of every group around it."""
    for directory, is_second in _group_directories(read):
        names = ("memory.max", "memory.current", "inactive_file")
        if not is_second:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        limit, used = _number(read(f"{directory}/{names[0]}")), _number(read(f"{directory}/{names[1]}"))
        if limit is not None and used is not None:
            idle = _fields(read(f"{directory}/memory.stat")).get(names[2], 0)
            yield MemoryBudget(name="group", limit_bytes=limit, used_bytes=max(0, used - idle))


def _group_directories(read: ReadText) -> Iterator[tuple[str, bool]]:
    """Yield the directories of the groups and whether they are of version 2, the innermost first."""
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        roots = [(f"{_GROUPS}/memory", False)] if "memory" in controllers.split(",") else []
        if not controllers:
            roots = [(_GROUPS, True), (f"{_GROUPS}/unified", True)]
        for root, is_second in roots:
            inner = path.rstrip("/")
            while True:  # a container may see the path of its host, where only the root is its own
                yield f"{root}{inner}", is_second
                if not inner:
                    break
                inner = inner.rpartition("/")[0]


def _stalled(read: ReadText) -> float | None:
    """Return the stalls of the innermost group that tells of them, else those of the machine."""
    places = [
        f"{directory}/memory.pressure" for directory, is_second in _group_directories(read) if is_second
    ]
    for place in [*places, "/proc/pressure/memory"]:
        for line in (read(place) or "").splitlines():
            if line.startswith("some avg10="):
                return float(line.split()[1].partition("=")[2]) / 100
    return None


def _number(text: str | None) -> int | None:
    stripped = (text or "").strip()
    return int(stripped) if stripped.isdigit() else None  # version 2 writes "max" for no limit


def _fields(text: str | None) -> dict[str, int]:
    rows = (line.split() for line in (text or "").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
