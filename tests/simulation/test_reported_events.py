"""Reported events in simulated lives: what was acknowledged comes in once, the first one first, or is named.

TRITIUM_SIMULATED_REPORTS seeds (200), from TRITIUM_SIMULATED_REPORTS_FROM on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from simulated.reporters import Reports  # noqa: E402 - the folder of the simulation comes first

from tritium_platform.adapters import spool  # noqa: E402
from tritium_platform.adapters.event_replay import EventReplay  # noqa: E402
from tritium_platform.adapters.spool import Spool, encode_frame, spool_files  # noqa: E402
from tritium_platform.adapters.spooled_events import SpooledEvents  # noqa: E402

SEEDS = int(os.environ.get("TRITIUM_SIMULATED_REPORTS", "200"))
FIRST = int(os.environ.get("TRITIUM_SIMULATED_REPORTS_FROM", "0"))
PATIENCE = 300
# Lives that end in the middle leave coroutines that nobody awaits.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_what_was_acknowledged_is_in_the_books_once_or_named():
    for seed in range(FIRST, FIRST + SEEDS):
        try:
            Reports(seed).run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def answers_before_the_sync():
    def append(self, payload):
        frame, written = encode_frame(payload, offset=self.size), 0
        while written < len(frame):
            written += spool.os.write(self._descriptor, frame[written:])
        self.size += len(frame)
        return self.size

    return patch.object(Spool, "append", append)


def writes_past_what_waits():
    return patch.object(SpooledEvents, "is_waiting", lambda _: False)


def removes_a_file_before_it_is_in_the_books():
    async def bring_in(self, path):
        async with self._lock:
            await self._end_file()

    return patch.object(SpooledEvents, "_bring_in", bring_in)


def forgets_what_an_earlier_process_left_until_it_is_restarted_again():
    async def find(self):
        spool_files(self._directory)

    return patch.object(SpooledEvents, "_find", find)


def names_nobody_whose_event_is_refused():
    return patch.object(EventReplay, "_codes", _no_codes)


async def _no_codes(self, events):
    await self._writer.write([each.event for each in events], identities=[each.identity for each in events])
    return {}


@pytest.mark.parametrize(
    "mistake",
    [
        answers_before_the_sync,
        writes_past_what_waits,
        removes_a_file_before_it_is_in_the_books,
        forgets_what_an_earlier_process_left_until_it_is_restarted_again,
        names_nobody_whose_event_is_refused,
    ],
)
def test_a_mistake_in_the_code_is_found(mistake):
    with mistake():
        for seed in range(PATIENCE):
            try:
                Reports(seed).run()
            except AssertionError:
                return
    pytest.fail(f"{mistake.__name__} lives through {PATIENCE} seeds")
