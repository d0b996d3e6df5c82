"""What analyses traces gives the same analysis, in this process and in another."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import pytest

from tritium.engine.cost import StepCost, StepSums
from tritium.engine.trace import Trace, TracedEngine, TracedInterval, TracedRequest, line_of, read_trace
from tritium.engine.yardstick import Yardstick
from tritium_platform.adapters.memory.trace_analyst import MemoryTraceAnalyst
from tritium_platform.adapters.trace_analyst import ProcessTraceAnalyst, new_trace
from tritium_platform.errors import ProcessingError
from tritium_platform.insight.recommendations import RecommendationService

if TYPE_CHECKING:
    from pathlib import Path

COST = StepCost(fixed=0.004, per_row=0.0005, per_prompt_token=0.0001)


def a_trace() -> Trace:
    """Sixty requests that wait for one of two places, on a host that gives a fifth of its time away."""
    sums = StepSums()
    for rows, prompt_tokens in ((1, 0), (2, 0), (1, 32), (2, 64)):
        sums.add(
            rows=rows,
            prompt_tokens=prompt_tokens,
            seconds=COST.seconds(rows=rows, prompt_tokens=prompt_tokens),
        )
    engine = TracedEngine(
        model="m",
        max_running=2,
        max_batched_tokens=256,
        max_waiting=512,
        max_waiting_tokens=2**20,
        max_waiting_seconds=60.0,
        latency_seconds=None,
        shares_prefixes=True,
        kv_cache_bytes=128 * 1024,
        kv_blocks=64,
        block_size=16,
        block_bytes=1024,
        context_limit=512,
        yardstick=Yardstick(
            weight_bytes=10**6,
            products_per_token=10**6,
            threads=1,
            isa="avx2",
            bytes_per_second=1e9,
            products_per_second=None,
        ),
    )
    requests = tuple(
        TracedRequest(
            arrival=0.001 * number,
            prompt=32,
            output=16,
            cached=0,
            tenant="0123",
            weight=1,
            priority=0,
            queue_seconds=1.0,
            first_seconds=1.1,
            end_seconds=2.0,
            finish="length",
        )
        for number in range(60)
    )
    intervals = tuple(
        TracedInterval(
            at=1.0 + second,
            seconds=1.0,
            busy_seconds=1.0,
            steps=150,
            sums=sums,
            running=2.0,
            waiting=30.0,
            kv_used=0.2,
            kv_full=0.0,
            prompt_tokens=400,
            rows=250,
            preemptions=0,
            refused=0,
            process_seconds=1.0,
            stolen=0.2,
            throttled_seconds=0.0,
            delivery_seconds=0.0,
            unread=1,
            pressure=0.3,
        )
        for second in range(4)
    )
    return Trace(engine=engine, requests=requests, intervals=intervals)


@pytest.fixture(params=["memory", "process"])
def analyst(request, tmp_path):
    """Both analysts, each with the trace of the engine `a-0`."""
    path = new_trace(tmp_path / "traces", "a-0")
    trace = a_trace()
    path.write_text("".join(map(line_of, (trace.engine, *trace.requests, *trace.intervals))))
    if request.param == "process":
        return ProcessTraceAnalyst(tmp_path / "traces")
    memory = MemoryTraceAnalyst()
    memory.traces["a-0"] = read_trace(path)
    return memory


async def test_an_analysis_has_its_evidence_and_typed_records(analyst):
    found = await analyst.analyse("a-0")
    assert found.evidence.requests == 60
    assert found.evidence.engine.yardstick.isa == "avx2"
    by_id = {each.id: each for each in found.recommendations}
    assert {"queue_wait", "stolen_time"} <= set(by_id)
    assert tuple(by_id["queue_wait"].change["max_running"]) == (2, 4)
    assert by_id["queue_wait"].expected[0].high < by_id["queue_wait"].expected[0].before
    assert dataclasses.is_dataclass(by_id["queue_wait"])
    assert found.bottleneck.kind == "cpu"


async def test_of_an_engine_that_wrote_nothing_there_is_no_analysis(analyst):
    assert await analyst.analyse("b-0") is None


async def test_the_service_leaves_out_engines_without_a_trace(analyst):
    service = RecommendationService(analyst)
    found = await service.recommend([("first", "a-0"), ("second", "b-0")])
    assert [(each.deployment, each.replica) for each in found] == [("first", "a-0")]


async def test_a_damaged_file_is_told_of(tmp_path):
    new_trace(tmp_path, "a-0").write_text("poem\n")
    with pytest.raises(ProcessingError, match="line 1 is not a line of a trace"):
        await ProcessTraceAnalyst(tmp_path).analyse("a-0")


def test_the_oldest_traces_make_room(tmp_path: Path):
    for number in range(80):
        path = new_trace(tmp_path, f"e-{number}")
        path.write_text("x")
        os.utime(path, (number, number))
    left = sorted(int(path.stem.removeprefix("e-")) for path in tmp_path.iterdir())
    assert left == list(range(16, 80))
