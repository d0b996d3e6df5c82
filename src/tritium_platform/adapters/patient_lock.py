"""A file's lock that the kernel takes back from a process that dies."""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from tritium_platform.errors import OverloadedError

if TYPE_CHECKING:
    from pathlib import Path

SHORTEST_PAUSE, LONGEST_PAUSE = 0.000_02, 0.000_5


class PatientLock:
    """The lock of an open file, held for microseconds within `with`.

    A process that is stopped while it holds it delays the others once; from then on they
    refuse at once until it goes on.

    Raises:
        OverloadedError: (from `with`) the lock cannot be had.
    """

    def __init__(self, descriptor: int, *, patience: float) -> None:
        """Take a file's descriptor, negative if it is closed, and for how many seconds to wait for others."""
        self._descriptor = descriptor
        self._patience = patience
        self._is_waited_for = False

    def __enter__(self) -> None:
        """Take the lock; wait for it."""
        if self._descriptor < 0:
            raise OverloadedError("The limits are closed.")
        if not lock_at_once(self._descriptor):
            self._wait()
        self._is_waited_for = False

    def _wait(self) -> None:
        pause, end = SHORTEST_PAUSE, time.monotonic() + self._patience
        while True:
            if self._is_waited_for or time.monotonic() > end:
                self._is_waited_for = True
                raise OverloadedError("The limits cannot be read: try again in a moment.")
            time.sleep(pause)
            if lock_at_once(self._descriptor):
                return
            pause = min(2 * pause, LONGEST_PAUSE)

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def open_to_lock(path: Path) -> int:
    """Open a file that may have to be made, and return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def lock_at_once(descriptor: int) -> bool:
    """Take the lock of an open file, if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
