"""Random schedules of faults through Stripe's real SDK: money at the provider is money in the books."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritium_payments_schedule import Schedule
from tritium_payments_till import open_till

STEPS = 40


async def play(seed, till):
    await Schedule(till, seed=seed).play(STEPS)


def played(seed):
    with open_till() as till:
        asyncio.run(play(seed, till))


@given(st.integers(0, 2**32))
@settings(max_examples=25)
def test_after_any_schedule_the_books_agree_with_the_provider(seed):
    played(seed)


@pytest.mark.soak
def test_many_schedules():
    count = int(os.environ.get("TRITIUM_PAYMENT_SCHEDULES", "10000"))
    start = int(os.environ.get("TRITIUM_PAYMENT_SEED", "0"))
    began = time.monotonic()
    for seed in range(start, start + count):
        try:
            played(seed)
        except BaseException:
            print(f"seed {seed} failed")  # noqa: T201 - so that it can be played again
            raise
        if (seed - start + 1) % 100 == 0:
            print(f"{seed - start + 1} schedules, {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201
