"""The part of the processor that a process gets beside others that want the same cores: Linux's niceness."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path

_STEP = 1.25  # a process has so many times the part of one that is nicer by one
_NICEST = 19
BACKGROUND = 15  # niceness of work that nobody waits for: below the lightest tenant


def niceness(weight: int, *, heaviest: int) -> int:
    """Return how much nicer than the heaviest a process of this weight has to be."""
    return round(math.log(heaviest / weight, _STEP))


def give_way(process_id: int, *, niceness: int) -> bool:
    """Make every thread of a process, and those it will start, nicer than this process by so much.

    Return whether that is so now: not where there is no Linux or the process has ended, and not where the
    system refuses. Without privilege nothing becomes less nice than it is, and a group changes ten times a
    second at most.
    """
    if sys.platform != "linux":
        return False
    wanted = min(_NICEST, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
    try:
        _set_threads(process_id, wanted)
        _set_group(process_id, wanted)
    except OSError:
        return False
    return True


def _set_threads(process_id: int, wanted: int) -> None:
    """Set every thread: for Linux each has a niceness of its own, which those that it starts inherit."""
    threads, done = Path(f"/proc/{process_id}/task"), set[int]()
    while new := {int(path.name) for path in threads.iterdir()} - done:
        for thread in new:
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, thread, wanted)
        done |= new


def _set_group(process_id: int, wanted: int) -> None:
    """Set the autogroup: where there are such, each session is one, and niceness counts within it alone."""
    group = Path(f"/proc/{process_id}/autogroup")
    if group.exists():
        group.write_text(str(max(0, wanted)), encoding="ascii")
