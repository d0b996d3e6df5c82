"""Each rule on a trace that it is for, and on one that it is not."""

from __future__ import annotations

import dataclasses

import pytest

from tritium.engine.bottleneck import BottleneckKind, find_bottleneck
from tritium.engine.cost import StepCost
from tritium.engine.evidence import evidence_of
from tritium.engine.recommendations import recommend
from tritium.engine.yardstick import Yardstick

# In the 10 ms of a step it reads six million bytes, or multiplies ten million.
SLOW = Yardstick(
    weight_bytes=1_000,
    products_per_token=1_000,
    threads=1,
    isa="avx2",
    bytes_per_second=6e8,
    products_per_second=1e9,
)


def crowd(count=130, *, every=0.001, **each):
    """Requests that come faster than two at a time can be served."""
    return [{"arrival": n * every} | each for n in range(count)]


def queued(trace, share=0.5):
    """The same trace, where so large a share of everybody's time was in the queue."""
    requests = tuple(
        dataclasses.replace(each, queue_seconds=share * each.end_seconds) for each in trace.requests
    )
    return dataclasses.replace(trace, requests=requests)


def ids(trace):
    return {each.id for each in recommend(trace)}


def one(trace, name):
    return next(each for each in recommend(trace) if each.id == name)


def test_requests_that_wait_for_places_get_more_of_them(new_trace):
    trace = queued(new_trace(crowd(), engine={"max_running": 2}, running=2.0))
    found = one(trace, "queue_wait")
    assert found.change == {"max_running": (2, 4)}
    assert found.evidence["queue_wait"] == pytest.approx(0.5)
    assert found.evidence["fill"] == 1.0
    assert found.window_seconds > 0
    first = next(each for each in found.expected if each.figure == "first_token_seconds")
    assert first.low <= first.high < first.before
    assert found.undo == "Set max_running back to 2 and start the engine again."
    assert found.risk


def test_places_are_no_gain_where_a_step_costs_in_proportion_to_its_rows(new_trace):
    dear = StepCost(per_row=0.002, per_prompt_token=0.002)
    trace = queued(new_trace(crowd(), cost=dear, engine={"max_running": 2}, running=2.0))
    found = [each for each in recommend(trace) if each.id == "queue_wait"]
    # Whoever begins sooner writes more slowly: the simulation says for each figure which of both it is.
    for each in found:
        ends = next(effect for effect in each.expected if effect.figure == "tokens_per_second")
        assert ends.high <= 1.2 * ends.before


def test_requests_that_hardly_wait_need_no_places(new_trace):
    assert "queue_wait" not in ids(queued(new_trace(crowd(every=0.5), running=8.0), 0.05))
    assert "queue_wait" not in ids(queued(new_trace(crowd(), running=2.0)))  # places are free


def test_steps_that_are_longer_than_is_wanted_get_fewer_rows_and_never_more(new_trace):
    wanted = {"max_running": 8, "latency_seconds": 0.0062}  # 4 ms and half a one for each row: four rows
    trace = queued(new_trace(crowd(), engine=wanted, running=8.0))
    found = one(trace, "latency")
    assert found.change == {"max_running": (8, 4)}
    assert {effect.figure for effect in found.expected} >= {"first_token_seconds", "tokens_per_second"}
    assert "queue_wait" not in ids(trace)
    assert "latency" not in ids(queued(new_trace(crowd(), engine=wanted | {"latency_seconds": 0.05})))
    assert "latency" not in ids(new_trace(crowd(), engine=wanted, running=2.0))
    assert "latency" not in ids(new_trace(crowd(), engine={"max_running": 8}, running=8.0))


def test_a_full_cache_gets_more_memory_unless_there_is_none(new_trace):
    small = {"kv_cache_bytes": 12 * 1024, "kv_blocks": 12}
    trace = new_trace(crowd(output=60), engine=small, kv_full=0.6)
    found = one(trace, "cache_full")
    assert found.change == {"kv_cache_bytes": (12 * 1024, 24 * 1024)}
    ends = next(each for each in found.expected if each.figure == "end_seconds")
    assert ends.high < 0.95 * ends.before
    assert "cache_full" not in ids(new_trace(crowd(output=60), engine=small, kv_full=0.6, pressure=0.9))
    assert "cache_full" not in ids(new_trace(crowd(output=60), engine=small, kv_full=0.01, preemptions=0))


def test_requests_that_lose_their_place_speak_for_a_larger_cache_too(new_trace):
    small = {"kv_cache_bytes": 12 * 1024, "kv_blocks": 12}
    assert "cache_full" in ids(new_trace(crowd(output=60), engine=small, kv_full=0.0, preemptions=3))


def test_places_and_cache_that_nobody_uses_can_serve_others(new_trace):
    trace = new_trace(crowd(every=0.3), running=1.0, kv_used=0.02, kv_full=0.0)
    found = one(trace, "batch_fill")
    assert found.change == {"kv_cache_bytes": (128 * 1024, 64 * 1024)}
    assert "batch_fill" not in ids(new_trace(crowd(every=0.3), running=6.0, kv_used=0.02, kv_full=0.0))
    assert "batch_fill" not in ids(new_trace(crowd(every=0.3), running=1.0, kv_used=0.6, kv_full=0.0))


def test_half_of_a_cache_that_holds_one_text_is_not_given_away(new_trace):
    longest = {"kv_cache_bytes": 40 * 1024, "kv_blocks": 40}  # a text of 512 tokens takes 32 blocks
    assert "batch_fill" not in ids(
        new_trace(crowd(every=0.3), engine=longest, running=1.0, kv_used=0.02, kv_full=0.0)
    )


def test_steps_full_of_prompts_get_more_tokens(new_trace):
    prompts = StepCost(fixed=0.02, per_row=0.0001, per_prompt_token=0.0005)
    many = {"max_running": 64, "max_batched_tokens": 32, "kv_blocks": 4096, "kv_cache_bytes": 2**22}
    requests = crowd(prompt=120, output=2)
    trace = queued(new_trace(requests, cost=prompts, engine=many, running=8.0))
    found = one(trace, "prefill_share")
    assert found.change == {"max_batched_tokens": (32, 64)}
    assert found.evidence["prefill"] >= 0.3
    assert "prefill_share" not in ids(
        queued(new_trace(requests, cost=prompts, engine=many, running=8.0), 0.1)
    )
    assert "prefill_share" not in ids(queued(new_trace(crowd(output=60), engine=many, running=8.0)))


def test_prompts_that_share_nothing_are_let_share(new_trace):
    prompts = StepCost(fixed=0.001, per_row=0.0001, per_prompt_token=0.001)
    requests = crowd(prompt=100, output=20)
    off = new_trace(requests, cost=prompts, engine={"shares_prefixes": False})
    found = one(off, "prefix_sharing")
    assert found.change == {"shares_prefixes": (False, True)}
    assert found.expected == ()
    assert "prefix_sharing" not in ids(new_trace(requests, cost=prompts))
    assert "prefix_sharing" not in ids(new_trace(crowd(output=60), engine={"shares_prefixes": False}))


def test_time_that_the_host_gives_away(new_trace):
    assert "stolen_time" in ids(new_trace(crowd(), stolen=0.2))
    assert "stolen_time" not in ids(new_trace(crowd(), stolen=0.01))


def test_a_quota_of_processor_time_that_is_used_up(new_trace):
    four = {"yardstick": dataclasses.replace(SLOW, threads=4)}
    trace = new_trace(crowd(), engine=four, throttled_seconds=0.05, process_seconds=0.2, seconds=0.1)
    assert one(trace, "throttled_time").change == {"threads": (4, 2)}
    assert "throttled_time" not in ids(new_trace(crowd(), engine=four, throttled_seconds=0.0))


def bound(new_trace, **figures):
    engine = {"yardstick": figures.pop("yardstick", SLOW), "max_running": 8}
    return new_trace(crowd(), engine=engine, **figures)


def kind_of(trace):
    return find_bottleneck(evidence_of(trace)).kind


def test_steps_that_take_as_long_as_reading_the_weights_are_bound_by_memory(new_trace):
    heavy = dataclasses.replace(SLOW, weight_bytes=6_000_000)  # 10 ms
    trace = bound(new_trace, yardstick=heavy, busy_seconds=0.2, steps=20, seconds=0.2)
    trace = dataclasses.replace(trace, intervals=trace.intervals * 2)  # enough steps to tell
    found = find_bottleneck(evidence_of(trace))
    assert found.kind is BottleneckKind.MEMORY
    assert found.memory_share == pytest.approx(1.0)
    assert "memory_bound" in ids(trace)
    assert "memory_bound" not in ids(bound(new_trace, steps=40))


def test_steps_that_take_as_long_as_their_products_are_bound_by_the_processor(new_trace):
    heavy = dataclasses.replace(SLOW, products_per_token=2_000_000)
    trace = bound(
        new_trace, yardstick=heavy, busy_seconds=0.4, seconds=0.4, steps=40, rows=160, prompt_tokens=0
    )
    found = find_bottleneck(evidence_of(trace))
    assert found.kind is BottleneckKind.CPU
    assert found.processor_share == pytest.approx(0.8)
    assert "processor_bound" in ids(queued(trace))
    assert "processor_bound" not in ids(trace)  # nobody waits


def test_outputs_that_wait_to_be_sent_are_bound_by_the_network(new_trace):
    late = bound(new_trace, delivery_seconds=0.02, busy_seconds=0.4, seconds=0.4, steps=40)
    assert kind_of(late) is BottleneckKind.NETWORK
    assert "front_end_bound" in ids(late)
    slow_client = bound(new_trace, unread=500, steps=40)
    assert kind_of(slow_client) is BottleneckKind.NETWORK
    assert "front_end_bound" not in ids(bound(new_trace, steps=40))


def test_an_engine_that_waits_for_requests_has_no_bottleneck(new_trace):
    assert kind_of(bound(new_trace, busy_seconds=0.1, seconds=1.0, steps=40)) is BottleneckKind.DEMAND


def test_what_is_not_explained_is_not_named(new_trace):
    idle = bound(new_trace, busy_seconds=0.4, seconds=0.4, steps=40, process_seconds=0.05)
    assert kind_of(idle) is BottleneckKind.UNKNOWN
    busy = bound(new_trace, busy_seconds=0.4, seconds=0.4, steps=40, process_seconds=0.39)
    assert kind_of(busy) is BottleneckKind.CPU
    unmeasured = bound(
        new_trace, yardstick=None, busy_seconds=0.4, seconds=0.4, steps=40, process_seconds=0.05
    )
    assert kind_of(unmeasured) is BottleneckKind.UNKNOWN


def test_of_few_requests_nothing_is_said(new_trace):
    few = queued(new_trace(crowd(10), engine={"max_running": 2}, running=2.0, stolen=0.5))
    assert recommend(few) == ()
    found = find_bottleneck(evidence_of(few))
    assert found.kind is BottleneckKind.UNKNOWN
    assert "too few" in found.reason


def test_the_same_trace_gives_the_same_recommendations(new_trace):
    trace = queued(new_trace(crowd(), engine={"max_running": 2}, running=2.0, stolen=0.1))
    assert recommend(trace) == recommend(trace)
    assert {"queue_wait", "stolen_time"} <= ids(trace)
