from __future__ import annotations

import itertools
import random
import time
from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.engine.config import EngineConfig
from tritium.engine.grammar import Grammar
from tritium.engine.request import GenerationRequest, QueueFullError, SamplingParams
from tritium.engine.waiting_room import WaitingRoom
from tritium.errors import ErrorCategory, Recovery, ValidationError


def a_request(number, *, tenant="", num_prompt=1, **sampling) -> GenerationRequest:
    return GenerationRequest(
        request_id=str(number),
        prompt_token_ids=(1,) * num_prompt,
        sampling=SamplingParams(**sampling),
        tenant=tenant,
    )


@settings(deadline=None)
@given(
    wishes=st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(1, 30), st.booleans())),
    limits=st.tuples(st.integers(1, 6), st.integers(1, 60), st.integers(1, 400)),
)
def test_what_waits_stays_within_all_limits_and_what_left_is_not_counted(wishes, limits):
    config = EngineConfig(
        max_waiting=limits[0], max_waiting_tokens=limits[1], max_waiting_bytes=limits[2]
    )  # fmt: skip
    room, inside = WaitingRoom(config), {}
    for number, (tenant, size, leaves) in enumerate(wishes):
        request = a_request(number, tenant=tenant, num_prompt=size)
        others = [size for _, size in inside.values()]
        own = [size for name, size in inside.values() if name == tenant]
        usage = (len(others) + 1, sum(others) + size, 8 * (sum(others) + size))
        share = (len(own) + 1, sum(own) + size, 8 * (sum(own) + size))
        fits = not others or all(used <= limit for used, limit in zip(usage, limits, strict=True))
        is_fair = all(mine <= limit - used for mine, used, limit in zip(share, usage, limits, strict=True))
        expected = fits and (not tenant or not own or is_fair)
        assert room.has_place(request) == expected
        if expected:
            room.enter(request)
            room.enter(request)
            inside[number] = (tenant, size)
        else:
            with pytest.raises(QueueFullError):
                room.enter(request)
        if leaves and inside:
            first = next(iter(inside))
            del inside[first]
            room.leave(str(first))
            room.leave(str(first))
    for number in inside:
        room.leave(str(number))
    assert not room._places
    assert not room._loads
    assert not any(room._whole.values())


@pytest.mark.parametrize("num_greedy", [1, 2, 3])
def test_tenants_that_ask_without_end_leave_room_for_the_next(num_greedy):
    room = WaitingRoom(EngineConfig(max_waiting=24))
    for number in range(100):
        for tenant in range(num_greedy):
            request = a_request(f"{tenant}-{number}", tenant=f"greedy {tenant}")
            if room.has_place(request):
                room.enter(request)
    assert sum(own["requests"] for own in room._loads.values()) == 24 * num_greedy // (num_greedy + 1)
    room.enter(a_request("late", tenant="late"))


def test_who_names_no_tenant_may_fill_it_and_the_refusal_says_which_limit_and_when_to_come_back():
    room = WaitingRoom(EngineConfig(max_waiting=3))
    for number in range(3):
        room.enter(a_request(number))
    with pytest.raises(QueueFullError) as caught:
        room.enter(a_request(3))
    assert caught.value.category is ErrorCategory.RATE_LIMITED
    assert caught.value.recovery is Recovery.RETRY_AFTER
    assert caught.value.details == {"limit_name": "requests", "limit": 3, "current": 3, "retry_after": 1.0}
    assert room.refused == {"requests": 1}


def test_what_a_request_carries_beside_its_prompt_counts_as_bytes():
    room = WaitingRoom(EngineConfig(max_waiting_bytes=5000))
    room.enter(a_request(0))
    heavy = [
        a_request(1, grammar=Grammar(kind="regex", source="a" * 5000)),
        a_request(2, stop=("é" * 1000,) * 3),
        a_request(3, logit_bias=dict.fromkeys(range(400), 1.0)),
        a_request(4, num_prompt=700),
    ]
    for request in heavy:
        with pytest.raises(QueueFullError) as caught:
            room.enter(request)
        assert caught.value.details["limit_name"] == "bytes"
    room.leave("0")
    room.enter(heavy[0])  # alone it comes in: it would be too large for ever


def test_the_time_to_come_back_follows_the_pace_at_which_places_are_left(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    room = WaitingRoom(EngineConfig(max_waiting=40))
    for number in range(40):
        room.enter(a_request(number))
    for number in range(30):
        now += 7.0
        room.leave(str(number))
    for number in range(40, 70):
        room.enter(a_request(number))
    with pytest.raises(QueueFullError) as caught:
        room.enter(a_request(70))
    assert caught.value.details["retry_after"] == pytest.approx(7.0, rel=0.01)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tenants", [("",), ("a", "b", "c")])
def test_who_comes_back_when_told_finds_a_place_in_a_simulated_queue(monkeypatch, seed, tenants):
    """The queue is served in turns of its tenants; prompts and times are drawn, the estimate is a mean."""
    now, source, numbers = 0.0, random.Random(seed), itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    room = WaitingRoom(EngineConfig(max_waiting=1000, max_waiting_tokens=4000))
    lines = {tenant: deque() for tenant in tenants}

    def fill():
        tenant = source.choice(tenants)
        request = a_request(next(numbers), tenant=tenant, num_prompt=source.randint(20, 120))
        if room.has_place(request):
            room.enter(request)
            lines[tenant].append(request.request_id)

    def serve():
        nonlocal now
        now += source.uniform(1.0, 3.0)
        waiting = [tenant for tenant in tenants if lines[tenant]]
        room.leave(lines[min(waiting, key=lambda tenant: served[tenant])].popleft())
        served[min(waiting, key=lambda tenant: served[tenant])] += 1

    served = Counter()
    for _ in range(400):
        for _ in range(3):
            fill()
        serve()
    for _ in range(60):
        fill()
    wanted = a_request("late", tenant=tenants[0], num_prompt=900)
    with pytest.raises(QueueFullError) as caught:
        room.enter(wanted)
    told = caught.value.details["retry_after"]
    began = now
    while not room.has_place(wanted):
        serve()
    assert 0.6 <= told / (now - began) <= 1.6


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), "60"])
def test_a_limit_in_seconds_must_be_a_number_above_zero(seconds):
    with pytest.raises(ValidationError, match="max_waiting_seconds"):
        EngineConfig(max_waiting_seconds=seconds)


def test_who_waits_too_long_is_sent_away_with_a_time_and_leaves_nothing_behind(
    new_engine, new_request, run_to_end
):
    engine = new_engine(max_running=1, max_waiting_seconds=0.05)
    engine.add_request(new_request("runs", "In the beginning", max_tokens=40))
    engine.step()
    engine.add_request(new_request("waits", "In the beginning"))
    time.sleep(0.06)
    outputs = run_to_end(engine)
    (last,) = outputs["waits"]
    assert last.finish_reason == "error"
    assert last.completion_tokens == 0
    error = last.to_error()
    assert isinstance(error, QueueFullError)
    assert error.details["retry_after"] >= 1
    assert outputs["runs"][-1].finish_reason == "length"
    assert engine.metrics().refused == {"seconds": 1}
    assert engine.metrics().kv_blocks_used == 0
    assert not engine.room._places
