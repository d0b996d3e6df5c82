from __future__ import annotations

import dataclasses
import itertools
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.engine import engine as engine_module
from tritium.engine import writing as writing_module
from tritium.engine.cost import StepCost
from tritium.engine.recording import TraceRecorder
from tritium.engine.request import GenerationRequest, SamplingParams
from tritium.engine.simulator import config_of, simulate
from tritium.engine.trace import Trace, TracedEngine, TracedRequest, read_trace
from tritium.engine.what_if import what_if
from tritium.errors import ValidationError

COST = StepCost(fixed=0.010, per_row=0.001, per_prompt_token=0.0002)
ENGINE = TracedEngine(
    model="m",
    max_running=4,
    max_batched_tokens=64,
    max_waiting=64,
    max_waiting_tokens=2**20,
    max_waiting_seconds=None,
    latency_seconds=None,
    shares_prefixes=True,
    kv_cache_bytes=20 * 1024,
    kv_blocks=20,
    block_size=16,
    block_bytes=1024,
    context_limit=256,
    yardstick=None,
)


def traced(**changes) -> TracedRequest:
    values = {
        "arrival": 0.0,
        "prompt": 20,
        "output": 3,
        "cached": 0,
        "tenant": "t",
        "weight": 1,
        "priority": 0,
        "queue_seconds": 0.0,
        "first_seconds": None,
        "end_seconds": 0.0,
        "finish": "length",
    }
    return TracedRequest(**(values | changes))


def trace_of(*requests, **engine) -> Trace:
    return Trace(engine=dataclasses.replace(ENGINE, **engine), requests=requests, intervals=())


def play(trace, **changes):
    config = dataclasses.replace(config_of(trace.engine), **changes)
    return simulate(trace, config=config, cost=COST)


def test_one_request_takes_a_step_for_its_prompt_and_one_for_each_further_token():
    found = play(trace_of(traced(arrival=5.0)))
    assert found.steps == 3
    assert found.passages[0].first_seconds == pytest.approx(0.010 + 20 * 0.0002)
    assert found.passages[0].end_seconds == pytest.approx(0.014 + 2 * 0.011)
    assert found.seconds == pytest.approx(found.busy_seconds) == pytest.approx(0.036)
    assert found.tokens_per_second == pytest.approx(3 / 0.036)


def test_a_prompt_longer_than_a_step_is_read_in_pieces():
    found = play(trace_of(traced(prompt=130)))
    assert found.passages[0].first_seconds == pytest.approx(3 * 0.010 + 130 * 0.0002)


def test_one_place_makes_the_second_wait_for_the_first():
    trace = trace_of(traced(), traced())
    alone, together = play(trace, max_running=1), play(trace)
    assert alone.passages[1].first_seconds == pytest.approx(0.036 + 0.014)
    assert together.passages[1].first_seconds == pytest.approx(0.010 + 40 * 0.0002)


def test_what_was_found_in_the_cache_is_found_again_and_not_with_too_little_of_it():
    requests = [traced(prompt=80), traced(arrival=1.0, prompt=80, cached=64)]
    assert play(trace_of(*requests)).cached_tokens == 64
    assert play(trace_of(*requests), shares_prefixes=False).cached_tokens == 0
    others = [
        traced(arrival=0.1 + n / 20, prompt=80, output=2, tenant="other") for n in range(8)
    ]  # they need the memory in between
    assert play(trace_of(requests[0], *others, requests[1])).cached_tokens == 0


def test_who_finds_no_place_is_refused_and_nobody_waits_for_ever():
    trace = trace_of(*(traced() for _ in range(12)), max_waiting=6)
    found = play(trace)
    # A tenant may hold half of the six places, as in the engine's own waiting room.
    assert sum(each.end_seconds is None for each in found.passages) == 12 - 3
    patient = trace_of(*(traced(output=60) for _ in range(12)), max_waiting_seconds=0.5)
    assert sum(each.end_seconds is None for each in play(patient).passages) > 0


def test_a_request_that_can_never_run_is_refused_before_anything_is_played():
    for wrong in ({"prompt": 300}, {"prompt": 0}, {"prompt": 250, "output": 10}):
        with pytest.raises(ValidationError):
            play(trace_of(traced(**wrong)))
    with pytest.raises(ValidationError):
        play(trace_of(traced(prompt=100)), kv_cache_bytes=2048)


requests_strategy = st.lists(
    st.builds(
        traced,
        arrival=st.floats(0, 2),
        prompt=st.integers(1, 120),
        output=st.integers(1, 40),
        cached=st.sampled_from((0, 0, 16, 48)),
        tenant=st.sampled_from("ab"),
        weight=st.integers(1, 4),
    ),
    min_size=1,
    max_size=14,
).map(lambda found: tuple(sorted(found, key=lambda each: each.arrival)))


@given(
    requests=requests_strategy,
    places=st.integers(1, 6),
    tokens=st.integers(8, 200),
    blocks=st.integers(10, 40),
)
def test_every_request_ends_with_its_tokens_whatever_the_limits(requests, places, tokens, blocks):
    found = play(
        trace_of(*requests),
        max_running=places,
        max_batched_tokens=tokens,
        kv_cache_bytes=blocks * 1024,
    )
    assert found.output_tokens == sum(each.output for each in requests)
    assert found.busy_seconds <= found.seconds + 1e-9
    for way in found.passages:
        assert 0 < way.first_seconds <= way.end_seconds
    assert found.cached_tokens <= sum(each.cached for each in requests)
    assert found == play(
        trace_of(*requests), max_running=places, max_batched_tokens=tokens, kv_cache_bytes=blocks * 1024
    )


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def monotonic_ns(self):
        return round(self.now * 1e9)


class TimedModel:
    """The real model, on a clock that a step puts forward by what it should cost."""

    def __init__(self, model, clock):
        self._model, self._clock = model, clock
        self.config, self.threads = model.config, model.threads

    def forward(self, batch, cache):
        lengths = [int(b - a) for a, b in zip(batch.sequence_starts, batch.sequence_starts[1:], strict=False)]
        last = {int(end) - 1 for end in batch.sequence_starts[1:]}
        rows = sum(
            length == 1 and int(end) - 1 in batch.logit_rows
            for length, end in zip(lengths, batch.sequence_starts[1:], strict=True)
            if int(end) - 1 in last
        )
        self._clock.now += COST.seconds(rows=rows, prompt_tokens=sum(lengths) - rows)
        return self._model.forward(batch, cache)


# What several requests share and a cache short of blocks forgets in part, no trace without texts can say.
SHORT = {"kv_cache_bytes": 1728 * 16 * 12}
CASES = [
    *itertools.product(
        [{}, {"max_running": 2}, {"max_batched_tokens": 24}], [(0, 0), (1, 0), (2, 48), (3, 48)]
    ),
    *itertools.product([SHORT], [(0, 0), (1, 0), (4, 0), (5, 0)]),
]


@pytest.mark.parametrize(("limits", "case"), CASES)
def test_a_real_engine_of_the_same_cost_fares_exactly_like_its_simulation(  # noqa: PLR0917 - fixtures
    scripture, new_engine, monkeypatch, tmp_path, limits, case
):
    seed, common = case
    clock = Clock()
    fake = SimpleNamespace(monotonic=clock.monotonic, monotonic_ns=clock.monotonic_ns)
    for module in (engine_module, writing_module):
        monkeypatch.setattr(module, "time", fake)
    engine = new_engine(model=TimedModel(scripture.generator, clock), **limits)
    recorder = TraceRecorder(tmp_path / "trace.jsonl", clock=clock.monotonic)
    engine.record(recorder, model="scripture")
    chance = random.Random(seed)
    due = []
    for number in range(14):
        tenant = chance.choice("ab")
        own = [chance.randrange(3, 4000) for _ in range(chance.randint(1, 60))]
        tokens = [7 + ord(tenant)] * common + own  # all prompts of a tenant begin alike
        due.append(
            GenerationRequest(
                request_id=str(number),
                prompt_token_ids=tuple(tokens),
                sampling=SamplingParams(max_tokens=chance.randint(1, 30), temperature=0, ignore_eos=True),
                arrival=100.0 + chance.random() * 0.8,
                tenant=tenant,
                cache_salt=tenant,
                weight=1 + (tenant == "b"),
            )
        )
    due.sort(key=lambda request: request.arrival)
    waiting = list(due)
    while waiting or engine.has_work:
        if not engine.has_work:
            clock.now = max(clock.now, waiting[0].arrival)
        while waiting and waiting[0].arrival <= clock.now:
            engine.add_request(waiting.pop(0))
        engine.step()
    engine.close()
    trace = read_trace(tmp_path / "trace.jsonl")
    found = simulate(trace, config=config_of(trace.engine), cost=COST)
    assert len(trace.requests) == 14
    assert found.cached_tokens == sum(each.cached for each in trace.requests)
    assert (found.cached_tokens > 0) == (common > 0)
    for way, each in zip(found.passages, trace.requests, strict=True):
        assert way.first_seconds == pytest.approx(each.first_seconds, abs=1e-6)
        assert way.end_seconds == pytest.approx(each.end_seconds, abs=1e-6)
    assert found.preemptions == sum(each.preemptions for each in trace.intervals)
    fitted = trace.sums.fit()
    for rows, prompt in ((1, 0), (2, 0), (2, 20)):
        expected = COST.seconds(rows=rows, prompt_tokens=prompt)
        assert fitted.seconds(rows=rows, prompt_tokens=prompt) == pytest.approx(expected, rel=1e-3)


def test_a_what_if_of_what_is_already_set_expects_what_was_recorded(new_trace):
    trace = new_trace([{"arrival": n * 0.01} for n in range(30)])
    effects = what_if(trace, {"max_running": 8})
    assert {effect.figure for effect in effects} == {
        "first_token_seconds",
        "end_seconds",
        "tokens_per_second",
    }
    for effect in effects:
        assert effect.low == pytest.approx(effect.before) == pytest.approx(effect.high)


def test_a_what_if_is_the_same_each_time_and_finds_what_the_simulator_finds(new_trace):
    trace = new_trace([{"arrival": n * 0.001, "output": 40} for n in range(40)], engine={"max_running": 2})
    first = what_if(trace, {"max_running": 16})
    assert first == what_if(trace, {"max_running": 16})
    effect = next(each for each in first if each.figure == "first_token_seconds")
    assert effect.high < 0.5 * effect.before
