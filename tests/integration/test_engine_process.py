"""One engine process under supervision: limits, silence, drains."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import time

import pytest

from tritium.engine.config import EngineConfig
from tritium.engine.request import GenerationRequest, SamplingParams
from tritium.errors import ValidationError
from tritium_platform.adapters.engine_options import EngineOptions
from tritium_platform.adapters.engine_process import EngineProcess
from tritium_platform.serving.errors import EngineUnavailableError
from tritium_platform.serving.model import ModelKind, ReplicaState

LONGEST = 2**16  # of the model without end


@pytest.fixture
async def engine(scripture_llama_without_end):
    """An engine that is ready; silence is noticed after two seconds."""
    options = EngineOptions(heartbeat_timeout=2.0, backoff_base=0.01)
    process = EngineProcess(name="e", model_path=str(scripture_llama_without_end), options=options)
    await process.start()
    await process.wait_ready()
    yield process
    await process.stop()


def request(request_id="r", **sampling):
    return GenerationRequest(
        request_id=request_id, prompt_token_ids=(5, 6, 7), sampling=SamplingParams(**sampling)
    )


async def wait_for(claim):
    for _ in range(400):
        if claim():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("what was waited for did not happen")


async def test_it_says_what_it_serves_and_streams_tokens(engine):
    assert engine.status.facts.kind is ModelKind.GENERATE
    assert engine.status.facts.maximum_positions == LONGEST
    outputs = [output async for output in engine.generate(request(max_tokens=5, ignore_eos=True))]
    assert outputs[-1].finish_reason == "length"
    assert outputs[-1].completion_tokens == 5
    assert engine.status.in_flight == 0


async def test_a_reader_that_fell_behind_gets_the_rest_at_once(engine):
    asked = request(max_tokens=50, temperature=0.0, ignore_eos=True)
    alone = [token async for output in engine.generate(asked) for token in output.token_ids]
    stream = engine.generate(asked)
    first = await anext(stream)
    await wait_for(
        lambda: (
            engine._letters._waiting["r"] and engine._letters._waiting["r"]._items[-1].output.finish_reason
        )
    )
    (rest,) = [output async for output in stream]
    assert [*first.token_ids, *rest.token_ids] == alone
    assert (rest.finish_reason, rest.completion_tokens) == ("length", 50)
    assert engine.status.in_flight == 0


async def test_it_says_at_once_when_requests_begin_and_cease_to_wait_in_it(scripture_llama_without_end):
    process = EngineProcess(
        name="e",
        model_path=str(scripture_llama_without_end),
        options=EngineOptions(limits=EngineConfig(max_running=1)),
    )
    told = []
    process.watch(lambda: told.append(process.status.load.waiting))
    await process.start()
    await process.wait_ready()
    assert process.status.facts.places == 1
    running, waiting = (process.generate(request(name, max_tokens=60_000, ignore_eos=True)) for name in "rw")
    await anext(running)
    first = asyncio.create_task(anext(waiting))
    for claim in (1, 0):
        before, begun = len(told), time.monotonic()
        for _ in range(30):  # on a machine that is not starved long before the next heartbeat is due
            await anext(running)
        beats = math.ceil(time.monotonic() - begun)  # so many ordinary ones may fall in between
        assert told[before:] in [[claim] * (1 + count) for count in range(beats + 1)]
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    await running.aclose()
    await process.stop()


async def test_errors_of_the_engine_arrive_as_the_same_class_with_the_same_details(engine):
    with pytest.raises(ValidationError) as refusal:
        [output async for output in engine.generate(request(max_tokens=LONGEST))]
    assert type(refusal.value).__name__ == "ContextLengthExceededError"
    assert refusal.value.details["limit"] == LONGEST
    with pytest.raises(ValidationError):
        await engine.embed("r", token_ids=[(1, 2)])


async def test_closing_a_stream_aborts_it_in_the_engine(engine):
    stream = engine.generate(request(max_tokens=60_000, ignore_eos=True))
    await anext(stream)
    await stream.aclose()
    assert engine.status.in_flight == 0

    async def is_free():
        try:
            outputs = [output async for output in engine.generate(request(max_tokens=2, ignore_eos=True))]
        except ValidationError:
            return False
        return outputs[-1].completion_tokens == 2

    # The engine lets go of it before the tokens of half a minute are written: the same id may run again.
    async with asyncio.timeout(10):
        while not await is_free():
            await asyncio.sleep(0.01)


async def test_an_engine_that_hangs_is_killed_and_started_again(engine):
    process_id = engine.status.process_id
    stream = engine.generate(request(max_tokens=60_000, ignore_eos=True))
    await anext(stream)
    os.kill(process_id, signal.SIGSTOP)
    with pytest.raises(EngineUnavailableError, match="again"):
        [output async for output in stream]
    await wait_for(lambda: engine.status.state is ReplicaState.READY)
    assert engine.status.process_id != process_id
    assert engine.status.restarts == 1


async def test_an_engine_whose_link_breaks_is_unavailable_until_it_is_started_again(engine):
    process_id = engine.status.process_id
    stream = engine.generate(request(max_tokens=60_000, ignore_eos=True))
    await anext(stream)
    engine._link.close()
    with pytest.raises(EngineUnavailableError):
        await engine.embed("e", token_ids=[(1,)])
    with pytest.raises(EngineUnavailableError):
        [output async for output in stream]
    await wait_for(lambda: engine.status.restarts == 1 and engine.status.state is ReplicaState.READY)
    assert engine.status.process_id != process_id


async def test_an_engine_that_talks_rubbish_is_not_listened_to_any_more(engine):
    stream = engine.generate(request(max_tokens=60_000, ignore_eos=True))
    await anext(stream)
    engine._link.data_received(b"\x02\x00\x00\x00\xc1\xc1")
    with pytest.raises(EngineUnavailableError):
        [output async for output in stream]
    await wait_for(lambda: engine.status.restarts == 1 and engine.status.state is ReplicaState.READY)


async def test_draining_finishes_what_runs_and_takes_nothing_new(engine):
    stream = engine.generate(request(max_tokens=60, ignore_eos=True))
    await anext(stream)
    drain = asyncio.create_task(engine.drain(timeout=30))
    await asyncio.sleep(0.01)
    with pytest.raises(EngineUnavailableError, match="draining"):
        await anext(engine.generate(request("other")))
    outputs = [output async for output in stream]
    assert outputs[-1].finish_reason == "length"
    await drain
    assert engine.status.state is ReplicaState.STOPPED


async def test_a_memory_limit_below_what_the_model_needs_fails_with_a_reason(scripture_llama):
    options = EngineOptions(memory_limit_bytes=400 * 2**20, backoff_base=0.01)
    process = EngineProcess(name="small", model_path=str(scripture_llama), options=options)
    await process.start()
    try:
        await wait_for(lambda: process.status.last_error is not None)
        assert process.status.state in {ReplicaState.FAILED, ReplicaState.RESTARTING, ReplicaState.STARTING}
    finally:
        await process.stop()


async def test_an_engine_that_could_not_be_started_is_tried_again(tmp_path, scripture_llama, monkeypatch):
    program = tmp_path / "python"
    working = sys.executable
    monkeypatch.setattr(sys, "executable", str(program))
    options = EngineOptions(backoff_base=0.01, backoff_cap=0.1)
    process = EngineProcess(name="e", model_path=str(scripture_llama), options=options)
    await process.start()
    try:
        await wait_for(lambda: process.status.restarts > 1)
        assert "could not be started" in process.status.last_error
        monkeypatch.setattr(sys, "executable", working)
        await process.wait_ready()
        assert process.status.last_error is None
    finally:
        await process.stop()


async def test_tenants_share_an_engine_and_a_tenants_urgent_request_comes_first(engine):
    begun = []

    async def run(name, tenant, priority=0):
        asked = GenerationRequest(
            request_id=name,
            prompt_token_ids=(5, 6, 7),
            sampling=SamplingParams(max_tokens=150, ignore_eos=True),
            tenant=tenant,
            weight=4 if tenant == "quiet" else 1,
            priority=priority,
        )
        outputs = engine.generate(asked)
        await anext(outputs)
        begun.append(name)
        assert [output async for output in outputs][-1].finish_reason == "length"

    flood = [run(f"flood {place}", "flood") for place in range(48)]  # 32 share a step
    tasks = [asyncio.create_task(each) for each in flood]
    await wait_for(lambda: len(begun) == 32)
    tasks.append(asyncio.create_task(run("urgent", "flood", priority=-1)))
    tasks.append(asyncio.create_task(run("quiet", "quiet")))
    await asyncio.gather(*tasks)
    waited = begun[32:]
    assert len(waited) == 18
    assert max(waited.index("quiet"), waited.index("urgent")) < 8
