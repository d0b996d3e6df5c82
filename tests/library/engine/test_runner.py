from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from functools import partial

import pytest

from tritium.engine.request import QueueFullError
from tritium.engine.runner import EngineThread
from tritium.errors import PlatformError, ProcessingError, ValidationError


@pytest.fixture
def new_thread(new_engine):
    threads = []

    def build(**limits) -> EngineThread:
        threads.append(EngineThread(new_engine(**limits)).start())
        return threads[-1]

    yield build
    for thread in threads:
        thread.close()


async def read(stream) -> tuple[int, ...]:
    return tuple([token async for output in stream for token in output.token_ids])


async def until_idle(thread: EngineThread) -> None:
    """Wait until the engine holds nothing any more; pytest's own limit ends a wait in vain."""

    def poll() -> None:
        while thread.metrics.running or thread.metrics.waiting or thread.metrics.kv_blocks_used:
            time.sleep(0.005)

    await asyncio.to_thread(poll)


async def test_many_readers_get_what_each_gets_alone(new_thread, new_request):
    thread = new_thread()
    prompts = [f"Chapter {number} of the book" for number in range(8)]
    requests = [new_request(str(place), prompt, max_tokens=16) for place, prompt in enumerate(prompts)]
    together = await asyncio.gather(*(read(thread.submit(request)) for request in requests))
    one_by_one = [await read(thread.submit(request)) for request in requests]
    assert together == one_by_one


async def test_a_reader_that_fell_behind_gets_the_rest_at_once_and_nothing_else(new_thread, new_request):
    thread = new_thread()
    ask = partial(new_request, text="In the beginning", max_tokens=16, logprobs=2)
    step_by_step = [output async for output in thread.submit(ask("fast"))]
    stream = thread.submit(ask("slow"))
    first = await anext(stream)
    await until_idle(thread)
    rest = [output async for output in stream]
    assert len(rest) == 1
    assert first.token_ids + rest[0].token_ids == sum((each.token_ids for each in step_by_step), ())
    assert first.text + rest[0].text == "".join(each.text for each in step_by_step)
    assert first.logprobs + rest[0].logprobs == sum((each.logprobs for each in step_by_step), ())
    assert (rest[0].finish_reason, rest[0].completion_tokens) == ("length", 16)


async def test_what_came_before_a_failure_is_read_before_it(new_thread, new_request):
    stream = new_thread().submit(new_request("r", "In the beginning", max_tokens=500))
    first = await anext(stream)
    stream.put(first)
    stream.put(replace(first, finish_reason="error", error="It broke."))
    assert (await anext(stream)).finish_reason is None
    with pytest.raises(ProcessingError, match="It broke"):
        await read(stream)


async def test_closing_a_stream_cancels_its_request_in_every_state(new_thread, new_request):
    thread = new_thread(max_batched_tokens=4, max_running=1)
    running = thread.submit(new_request("running", "In the beginning", max_tokens=500))
    await anext(running)
    waiting = thread.submit(new_request("waiting", "In the beginning", max_tokens=500))
    await waiting.aclose()
    await running.aclose()
    prefilling = thread.submit(new_request("prefilling", "word " * 200, max_tokens=10))
    await asyncio.sleep(0.01)
    await prefilling.aclose()
    await until_idle(thread)
    assert thread.metrics.finished["abort"] == 3
    assert "length" not in thread.metrics.finished


async def test_an_abort_ends_the_stream_with_its_usage(new_thread, new_request):
    thread = new_thread()
    stream = thread.submit(new_request("r", "In the beginning", max_tokens=900))
    first = await anext(stream)
    thread.abort("r")
    *_, last = [output async for output in stream]
    assert last.finish_reason == "abort"
    assert 0 < first.compute_seconds <= last.compute_seconds


async def test_what_can_never_run_is_refused_when_it_is_submitted(new_thread, new_request):
    thread = new_thread(max_context=16)
    with pytest.raises(ValidationError):
        thread.submit(new_request("r", "word " * 40))
    thread.submit(new_request("twice", "In"))
    with pytest.raises(ValidationError, match="id"):
        thread.submit(new_request("twice", "In"))
    with pytest.raises(ValidationError, match="vectors"):
        await thread.embed([(1, 2)])


async def test_a_full_queue_refuses_at_once(new_thread, new_request):
    thread = new_thread(max_waiting=2, max_running=1)
    streams = [thread.submit(new_request("0", "In", max_tokens=900))]
    await anext(streams[0])
    streams += [thread.submit(new_request(str(place), "In")) for place in (1, 2)]
    with pytest.raises(QueueFullError):
        thread.submit(new_request("3", "In"))
    for stream in streams:
        await stream.aclose()


async def test_draining_finishes_what_runs_and_refuses_what_comes(new_thread, new_request):
    thread = new_thread()
    reading = asyncio.create_task(read(thread.submit(new_request("r", "In", max_tokens=40))))
    draining = asyncio.create_task(thread.drain(timeout=60))
    await asyncio.sleep(0)
    with pytest.raises(PlatformError, match="shutting down"):
        thread.submit(new_request("late", "In"))
    assert await draining
    assert len(await reading) == 40
    assert not thread.is_alive


async def test_draining_cuts_off_what_takes_too_long(new_thread, new_request):
    thread = new_thread()
    stream = thread.submit(new_request("r", "In", max_tokens=1000))
    await anext(stream)
    assert not await thread.drain(timeout=0.0)
    with pytest.raises(ProcessingError, match="shut down"):
        await read(stream)


async def test_a_failing_step_fails_its_requests_and_the_engine_goes_on(new_thread, new_request, monkeypatch):
    thread = new_thread()
    step = thread._engine.step

    def fail_once():
        monkeypatch.setattr(thread._engine, "step", step)
        raise RuntimeError("a defect")

    monkeypatch.setattr(thread._engine, "step", fail_once)
    with pytest.raises(ProcessingError):
        await read(thread.submit(new_request("r", "In")))
    assert len(await read(thread.submit(new_request("r", "In")))) == 12


async def test_nobody_waits_for_a_thread_that_is_gone(new_thread, new_request, monkeypatch):
    thread = new_thread()

    def fail():
        raise RuntimeError("a defect")

    monkeypatch.setattr(thread._engine, "step", fail)
    monkeypatch.setattr(thread._engine, "fail_all", lambda message: fail())
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with pytest.raises(ProcessingError):
        await read(thread.submit(new_request("r", "In")))
    await asyncio.to_thread(thread._thread.join)
    assert not thread.is_alive
    with pytest.raises(PlatformError):
        thread.submit(new_request("r", "In"))


async def test_a_reader_whose_loop_is_gone_does_not_hold_the_others_up(new_thread, new_request):
    thread = new_thread()

    def start_and_leave() -> None:
        async def begin() -> None:
            await anext(thread.submit(new_request("gone", "In", max_tokens=900)))

        asyncio.run(begin())

    leaver = threading.Thread(target=start_and_leave)
    leaver.start()
    await asyncio.to_thread(leaver.join)
    assert len(await read(thread.submit(new_request("r", "In")))) == 12
    await until_idle(thread)
    assert thread.metrics.finished == {"length": 1, "abort": 1}
