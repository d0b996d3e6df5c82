"""Who leaves gives back place and blocks within one step, in every state, and nobody else notices."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tritium.engine.runner import EngineThread

OTHERS = ("And it came to pass that", "The LORD is my shepherd; I shall not want.")
LEAVER = "In the beginning God created the heaven and the earth. And the earth was without form, and void"


def tokens_of(outputs) -> tuple[int, ...]:
    return tuple(token for output in outputs for token in output.token_ids)


def is_queued(sequence) -> bool:
    return sequence.first_step_at is None


def is_prefilling(sequence) -> bool:
    return 0 < sequence.num_computed < sequence.num_prompt


def is_decoding(sequence) -> bool:
    return sequence.num_generated > 2


def is_preempted(sequence) -> bool:
    return sequence.num_preemptions > 0 and not sequence.num_computed


@pytest.mark.parametrize("state", [is_queued, is_prefilling, is_decoding, is_preempted])
def test_an_abort_gives_everything_back_at_once_and_changes_nobody_elses_tokens(
    new_engine, new_request, run_to_end, state
):
    others = [new_request(f"other {place}", text, max_tokens=24) for place, text in enumerate(OTHERS)]
    expected = {}
    for request in others:
        engine = new_engine()
        engine.add_request(request)
        expected |= run_to_end(engine)
    limits = {"max_batched_tokens": 8, "max_running": 2 if state is is_queued else 3}
    if state is is_preempted:
        limits["kv_cache_bytes"] = 1728 * 16 * 5  # blocks of sixteen tokens: too few for all three
    engine = new_engine(**limits)
    leaver = new_request("leaver", LEAVER, max_tokens=40)
    requests = [*others, leaver] if state in {is_queued, is_preempted} else [leaver, *others]
    for request in requests:
        engine.add_request(request)
    outputs = {request.request_id: [] for request in requests}
    sequence = engine._sequences["leaver"]
    while not state(sequence):
        for output in engine.step():
            outputs[output.request_id].append(output)
        assert "leaver" in engine._sequences, "it ended before it came into the state"
    used = {block for each in engine._sequences.values() if each is not sequence for block in each.blocks}
    assert engine.abort("leaver").finish_reason == "abort"
    assert engine._allocator.num_used == len(used)
    assert sequence not in engine._scheduler.running
    assert "leaver" not in engine.room._places
    assert (
        len(engine._scheduler._policy)
        == engine.num_waiting
        == len(engine._sequences) - len(engine._scheduler.running)
    )
    for request_id, rest in run_to_end(engine).items():
        outputs[request_id] += rest
    for request in others:
        assert tokens_of(outputs[request.request_id]) == tokens_of(expected[request.request_id])
    assert engine._allocator.num_used == 0
    assert not engine._scheduler._policy._in_batch
    assert not len(engine._scheduler._policy)


@pytest.mark.parametrize("state", [is_queued, is_prefilling, is_decoding])
async def test_a_closed_stream_takes_part_in_no_step_but_the_one_under_way(new_engine, new_request, state):
    """The engine's thread stands still in a step while the stream is closed, whatever state that is in."""
    engine = new_engine(max_batched_tokens=8, max_running=1 if state is is_queued else 4)
    thread = EngineThread(engine)
    reached, go_on = threading.Event(), threading.Event()
    took_part: list[set[str]] = []
    step = engine.step

    def step_by_step():
        before = {name: each.num_computed for name, each in engine._sequences.items()}
        outputs = step()
        sequence = engine._sequences.get("leaver")
        took_part.append(
            {name for name, each in engine._sequences.items() if each.num_computed > before[name]}
        )
        if not reached.is_set() and sequence is not None and state(sequence):
            reached.set()
            go_on.wait()
        return outputs

    engine.step = step_by_step
    thread.start()
    try:
        stays = thread.submit(new_request("stays", OTHERS[0], max_tokens=60))
        leaver = thread.submit(new_request("leaver", LEAVER * 2, max_tokens=400))
        assert await asyncio.to_thread(reached.wait, 60)
        steps = len(took_part)
        await leaver.aclose()
        go_on.set()
        outputs = [output async for output in stays]
        assert outputs[-1].finish_reason == "length"
        assert not any("leaver" in names for names in took_part[steps:])
        assert engine.metrics().finished == {"abort": 1, "length": 1}
        assert engine.metrics().kv_blocks_used == 0
    finally:
        go_on.set()
        thread.close()
