"""What a real engine does when memory becomes short, and when it is not any more."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tritium.engine import governor as governor_module
from tritium.engine.config import EngineConfig
from tritium.engine.engine import Engine
from tritium.engine.pressure import PressureLadder, Rung
from tritium.engine.resources import MemoryBudget, MemoryReading, read_memory
from tritium.engine.runner import EngineThread
from tritium.errors import ErrorCategory, InsufficientMemoryError, Recovery

LIMIT = 1000 * 2**20


class Memory:
    """A reading that the test sets: `used` of a thousand mebibytes."""

    def __init__(self) -> None:
        self.used = 0.3

    def __call__(self) -> MemoryReading:
        budget = MemoryBudget(name="group", limit_bytes=LIMIT, used_bytes=int(self.used * LIMIT))
        return MemoryReading(budgets=(budget,))


@pytest.fixture
def memory():
    return Memory()


@pytest.fixture
def hasty(monkeypatch):
    """Looks at memory before every step, and climbs and descends a rung each time."""
    monkeypatch.setattr(governor_module, "CHECK_SECONDS", 0.0)

    def ladder(**_):
        return PressureLadder(climb_seconds=0.0, calm_seconds=0.0)

    monkeypatch.setattr(governor_module, "PressureLadder", ladder)


@pytest.fixture
def pressed_engine(scripture, memory, hasty):
    def build(**limits) -> Engine:
        return Engine(
            scripture.generator,
            tokenizer=scripture.tokenizer,
            end_token_ids=scripture.tokenizer.eos_token_ids,
            config=EngineConfig(**limits),
            read_memory=memory,
        )

    return build


def tokens_of(outputs):
    return {
        request_id: tuple(token for output in items for token in output.token_ids)
        for request_id, items in outputs.items()
    }


def test_an_engine_climbs_the_ladder_comes_back_and_no_token_differs(  # noqa: PLR0917 - fixtures
    new_engine, pressed_engine, new_request, run_to_end, memory, caplog
):
    caplog.set_level(logging.INFO, logger="tritium.engine.governor")
    requests = [new_request(str(n), f"{n} And it came to pass " * 3, max_tokens=40) for n in range(8)]
    free = new_engine()
    for request in requests:
        free.add_request(request)
    expected = tokens_of(run_to_end(free))

    engine, outputs, seen = pressed_engine(max_running=8), {}, []
    for request in requests:
        engine.add_request(request)
    for step in range(10_000):
        if not engine.has_work:
            break
        memory.used = 0.97 if 12 <= step < 30 else 0.3
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        figures = engine.metrics()
        seen.append((figures.pressure_rung, figures.running))
        if step == 20:  # quarters of the places, and nobody new
            assert figures.pressure_rung == Rung.REFUSE
            assert figures.max_running == 2
            assert figures.running == 2
            with pytest.raises(InsufficientMemoryError) as caught:
                engine.add_request(new_request("late", "And"))
            assert caught.value.category is ErrorCategory.RESOURCE_EXHAUSTED
            assert caught.value.recovery is Recovery.RETRY_AFTER
            assert caught.value.details["retry_after"] >= 1
            assert engine.metrics().refused == {"memory": 1}
    assert tokens_of(outputs) == expected
    rungs = [rung for rung, _ in seen]
    assert rungs[11:16] == [Rung.CALM, Rung.EVICT_CACHES, Rung.SHRINK, Rung.REFUSE, Rung.REFUSE]
    assert rungs[29:34] == [Rung.REFUSE, Rung.SHRINK, Rung.EVICT_CACHES, Rung.CALM, Rung.CALM]
    assert engine.metrics().max_running == 8
    assert max(running for _, running in seen[34:]) > 2
    assert engine.metrics().preemptions >= 6
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3 + ["INFO"] * 3
    assert "calm -> evict_caches" in caplog.messages[0]


def test_prefixes_nobody_uses_are_forgotten_and_found_again_later(
    pressed_engine, new_request, run_to_end, memory
):
    engine = pressed_engine()
    text = "The LORD is my shepherd; I shall not want. He maketh me to lie down in green pastures"

    def cached(name):
        engine.add_request(new_request(name, text, max_tokens=2))
        return run_to_end(engine)[name][-1].cached_tokens

    assert cached("first") == 0
    assert cached("again") >= 16
    memory.used = 0.95
    engine.look_after()
    memory.used = 0.5
    assert engine.metrics().evicted_blocks > 0
    assert cached("after the eviction") == 0
    assert cached("once more") >= 16


def test_the_memory_of_forgotten_prefixes_goes_back_to_the_system(scripture, new_request, hasty, memory):
    engine = Engine(
        scripture.generator,
        tokenizer=scripture.tokenizer,
        end_token_ids=(),
        config=EngineConfig(kv_dtype="fp32"),
        read_memory=memory,
    )
    for name in range(24):
        engine.add_request(new_request(str(name), f"{name} In the beginning", max_tokens=300))
    while engine.has_work:
        engine.step()
    before = read_memory().resident_bytes
    expected = engine._allocator.num_touched * engine.block_bytes
    memory.used = 0.95
    engine.look_after()
    freed = before - read_memory().resident_bytes
    assert expected > 20 * 2**20
    assert freed > 0.8 * expected
    assert engine._allocator.num_touched == 0


def test_with_nothing_to_do_a_first_request_is_let_in_whatever_the_pressure(
    pressed_engine, new_request, run_to_end, memory
):
    engine = pressed_engine()
    memory.used = 0.99
    for _ in range(5):
        engine.look_after()
    assert engine.metrics().pressure_rung == Rung.REFUSE
    engine.add_request(new_request("a", "And"))
    engine.step()
    with pytest.raises(InsufficientMemoryError):
        engine.room.require_place(new_request("b", "And"))
    assert len(tokens_of(run_to_end(engine))["a"]) == 11
    engine.room.require_place(new_request("b", "And"))


def test_nine_tenths_of_a_large_machine_may_be_in_use(scripture, new_request, run_to_end, hasty):
    def large():
        budget = MemoryBudget(name="machine", limit_bytes=256 * 2**30, used_bytes=250 * 2**30)
        return MemoryReading(budgets=(budget,))

    engine = Engine(scripture.generator, tokenizer=scripture.tokenizer, end_token_ids=(), read_memory=large)
    for name in range(20):
        engine.add_request(new_request(str(name), "And", max_tokens=3))
    engine.step()
    figures = engine.metrics()
    assert (figures.pressure_rung, figures.running, figures.max_running) == (Rung.CALM, 20, 32)


def test_where_memory_is_nearly_used_up_nobody_more_is_begun_than_it_holds(
    pressed_engine, new_request, memory
):
    engine = pressed_engine(max_running=16)
    for _ in range(16):
        engine.governor.note_end(8)  # so many blocks are expected of everybody
    memory.used = 0.92 - 10.2 * 8 * engine.block_bytes / LIMIT  # room for ten of them
    for name in range(16):
        engine.add_request(new_request(str(name), "And it came to pass", max_tokens=60))
    engine.step()
    assert engine.metrics().pressure_rung == Rung.CALM
    assert 9 <= engine.metrics().running <= 13


async def test_an_engine_without_requests_comes_back_by_itself(
    pressed_engine, new_request, memory, monkeypatch
):
    monkeypatch.setattr("tritium.engine.runner.CHECK_SECONDS", 0.01)
    thread = EngineThread(pressed_engine()).start()
    try:
        memory.used = 0.95
        async for _ in thread.submit(new_request("a", "And", max_tokens=8)):
            pass
        assert thread.metrics.pressure_rung > 0
        memory.used = 0.2
        for _ in range(500):
            await asyncio.sleep(0.01)
            if thread.metrics.pressure_rung == 0:
                break
        assert thread.metrics.pressure_rung == Rung.CALM
    finally:
        thread.close()
