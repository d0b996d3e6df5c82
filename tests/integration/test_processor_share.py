"""Engines that want the same core get it by their tenants' weights: real processes under a real kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tritium_platform.adapters.engine_options import EngineOptions
from tritium_platform.adapters.engine_process import EngineProcess
from tritium_platform.adapters.processor_share import BACKGROUND, give_way, niceness
from tritium_platform.serving.model import ReplicaState
from tritium_platform.tenancy.model import TIER_WEIGHTS, TenantTier

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Niceness is per thread on Linux alone.")

# Of two threads, as engines have several; the second one starts after the first.
BUSY = """
import threading
def run():
    while True:
        pass
threading.Thread(target=run).start()
run()
"""
MODEL = Path(__file__).resolve().parents[2] / "examples" / "models" / "scripture-llama-6m"


def processor_seconds(process_id):
    fields = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def niceness_of(process_id):
    """Return how much nicer than this process each thread of another is."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    threads = [int(path.name) for path in Path(f"/proc/{process_id}/task").iterdir()]
    return {os.getpriority(os.PRIO_PROCESS, thread) - own for thread in threads}


def group_niceness_of(process_id):
    """Return the niceness of the autogroup of a process; None where there are none."""
    path = Path(f"/proc/{process_id}/autogroup")
    return int(path.read_text(encoding="ascii").split()[-1]) if path.exists() else None


def within_reach(steps):
    """Return what of so many steps there is room for: 19 is the end."""
    return min(19 - os.getpriority(os.PRIO_PROCESS, 0), steps)


def test_weights_are_steps_of_niceness_and_work_nobody_waits_for_comes_last():
    heaviest = max(TIER_WEIGHTS.values())
    steps = [niceness(TIER_WEIGHTS[tier], heaviest=heaviest) for tier in TenantTier]
    assert sorted(steps) == [0, 6, 12]
    assert niceness(TIER_WEIGHTS[TenantTier.BUSINESS], heaviest=heaviest) == 0
    assert max(steps) < BACKGROUND


def test_of_two_busy_processes_on_one_core_the_heavier_gets_more_of_it():
    core = str(min(os.sched_getaffinity(0)))
    command = ("taskset", "-c", core, sys.executable, "-c", BUSY)
    light, heavy = (subprocess.Popen(command, start_new_session=True) for _ in range(2))
    try:
        assert give_way(light.pid, niceness=within_reach(9))
        before = [processor_seconds(each.pid) for each in (light, heavy)]
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            time.sleep(0.1)
            used = [processor_seconds(each.pid) - b for each, b in zip((light, heavy), before, strict=True)]
            if sum(used) >= 2:
                break
        assert used[1] > used[0]
    finally:
        for each in (light, heavy):
            each.kill()
            each.wait()


def test_a_process_that_has_ended_is_no_error():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not give_way(ended.pid, niceness=1)


async def test_an_engine_keeps_its_part_when_it_is_started_again():
    options = EngineOptions(threads=2, shares_processor=True, backoff_base=0.01)
    engine = EngineProcess(name="e", model_path=str(MODEL), options=options)
    await engine.start()
    try:
        await engine.wait_ready()
        assert niceness_of(engine.status.process_id) == {0}
        engine.weigh(1)
        assert niceness_of(engine.status.process_id) == {within_reach(12)}
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert group_niceness_of(engine.status.process_id) in {None, own + within_reach(12)}
        os.kill(engine.status.process_id, signal.SIGKILL)
        while engine.status.restarts == 0:
            await engine._changed.wait()
            engine._changed.clear()
        await engine.wait_ready()
        assert engine.status.state is ReplicaState.READY
        assert niceness_of(engine.status.process_id) == {within_reach(12)}
        engine.weigh(16)  # a tenant that has more now: without privilege that waits for the next start
        assert niceness_of(engine.status.process_id) == {0 if os.geteuid() == 0 else within_reach(12)}
    finally:
        await engine.stop()


def test_engines_get_their_part_by_the_tier_of_whoever_asks_and_only_where_that_is_wanted(tmp_path, harness):
    for wanted in (True, False):
        config = harness.platform_config(tmp_path / str(wanted), engine_cpu_shares=wanted)
        platform, stop = harness.serve(config)
        try:
            for tier, steps in (("developer", 12), ("business", 0)):
                _, key = platform.tenant(tier=tier)
                before = set(harness.replica_process_ids(platform))
                model = platform.deploy(key, path=MODEL)
                (process_id,) = set(harness.replica_process_ids(platform)) - before
                platform.openai(key).completions.create(model=model, prompt="And", max_tokens=2)
                assert niceness_of(process_id) == {within_reach(steps) if wanted else 0}
        finally:
            stop()
