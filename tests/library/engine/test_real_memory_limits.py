"""An engine in a process of its own under a real limit: it climbs, comes back, and loses nothing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

CHILD = """
import json, mmap, os, resource, sys, time
model, kind, group = sys.argv[1:4]
if group:
    open(group + "/cgroup.procs", "w").write(str(os.getpid()))
from tritium.engine import governor
from tritium.engine.engine import Engine
from tritium.engine.pressure import PressureLadder, Rung
from tritium.engine.request import GenerationRequest, SamplingParams
from tritium.engine.resources import read_memory
from tritium.errors import InsufficientMemoryError
from tritium.model.pretrained import load_model

governor.CHECK_SECONDS = 0.02
loaded = load_model(model, threads=1)

def engine():
    return Engine(loaded.generator, tokenizer=loaded.tokenizer, end_token_ids=())

def request(number):
    ids = tuple(loaded.tokenizer.encode(f"{number} And it came to pass"))
    sampling = SamplingParams(max_tokens=400, temperature=0)
    return GenerationRequest(request_id=str(number), prompt_token_ids=ids, sampling=sampling)

def run(engine, each_step):
    tokens = {}
    while engine.has_work:
        each_step()
        for output in engine.step():
            tokens.setdefault(output.request_id, []).extend(output.token_ids)
    return tokens

free = engine()
for number in range(8):
    free.add_request(request(number))
expected = run(free, lambda: None)

if kind == "address_space":
    size = read_memory(address_limit=lambda: 2**60).budgets[-1].used_bytes
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, size + 2**29))
pressed = engine()
pressed.governor._ladder = PressureLadder(climb_seconds=0.0, calm_seconds=0.2)
for number in range(8):
    pressed.add_request(request(number))
budget = lambda: next(b for b in read_memory().budgets if b.name == kind)
rungs, ballast, refusal = [], [], []

def each_step():
    if pressed.governor.rung is Rung.REFUSE and ballast:
        try:
            pressed.add_request(request(99))
        except InsufficientMemoryError as error:
            refusal.append(error.message)
        ballast.pop().close()
    rung = int(pressed.governor.rung)
    if not rungs or rungs[-1] != rung:
        rungs.append(rung)
    if len(rungs) == 1 and not ballast and pressed.metrics().generated_tokens > 200:
        size = budget().headroom_bytes(0.95)
        memory = mmap.mmap(-1, size)
        if kind == "group":
            for _ in range(size // 2**20):
                memory.write(bytes(2**20))
        ballast.append(memory)

before = budget().used_share
tokens = run(pressed, each_step)
deadline = time.monotonic() + 20
while pressed.is_pressed and time.monotonic() < deadline:
    time.sleep(0.05)
    pressed.look_after()
    each_step()
json.dump({"before": before, "rungs": rungs, "refusal": refusal, "same": tokens == expected}, sys.stdout)
"""


def run_child(model: Path, kind: str, group: str = "") -> dict:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(model), kind, group],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture
def memory_group():
    """A control group of this machine with a limit of 512 MiB, of version 1 or 2."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root) / f"tritium-test-{uuid.uuid4().hex[:12]}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(512 * 2**20))
        except OSError:
            group.rmdir()
            continue
        yield str(group)
        with contextlib.suppress(OSError):
            group.rmdir()
        return
    pytest.skip("this user may not make control groups with a limit of memory")


def require_ladder(found):
    assert found["before"] < 0.85
    assert found["rungs"] == [0, 1, 2, 3, 2, 1, 0]
    assert len(found["refusal"]) == 1
    assert found["same"]


def test_under_a_limit_of_the_address_space(scripture_llama):
    require_ladder(run_child(scripture_llama, "address_space"))


def test_in_a_control_group_that_is_nearly_full(scripture_llama, memory_group):
    require_ladder(run_child(scripture_llama, "group", memory_group))
