from __future__ import annotations

import itertools
import logging
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.engine.config import EngineConfig
from tritium.engine.tuning import AdaptiveTuner, next_limit
from tritium.errors import ValidationError

MOST = 64


def new_tuner(*, mode="apply", wanted=0.05, running=MOST, tokens=512):
    return AdaptiveTuner(mode=mode, latency_seconds=wanted, max_running=running, max_batched_tokens=tokens)


def play(tuner, plant, *, steps, noise=0.0, seed=0):
    """Let everybody who may run write; return the limit after each step."""
    chance, limits = random.Random(seed), []
    for step in range(steps):
        rows = tuner.max_running
        seconds = plant(rows) * chance.uniform(1 - noise, 1 + noise)
        tuner.record(rows=rows, prompt_tokens=0, seconds=seconds, now=float(step))
        limits.append(tuner.max_running)
    return limits


def turns(limits):
    moves = [b - a for a, b in itertools.pairwise(limits) if a != b]
    return sum((a > 0) != (b > 0) for a, b in itertools.pairwise(moves))


plants = st.tuples(st.floats(0, 0.06), st.floats(0.0001, 0.02), st.sampled_from((0.6, 1.0)))


def plant_of(fixed, per_row, power):
    return lambda rows: fixed + per_row * rows**power


@settings(max_examples=30)
@given(parameters=plants)
def test_on_a_steady_machine_it_settles_and_never_turns(parameters):
    plant, tuner = plant_of(*parameters), new_tuner()
    limits = play(tuner, plant, steps=6000)
    assert turns(limits) == 0
    assert len(set(limits[-2000:])) == 1
    assert plant(limits[-1]) <= 0.05 * 1.0001 or limits[-1] == 1


@settings(max_examples=30)
@given(parameters=plants, seed=st.integers(0, 10**6))
def test_with_noise_it_hardly_ever_turns(parameters, seed):
    plant, tuner = plant_of(*parameters), new_tuner()
    limits = play(tuner, plant, steps=6000, noise=0.2, seed=seed)
    assert turns(limits) <= 2
    assert plant(limits[-1]) <= 0.05 * 1.1 or limits[-1] == 1


@settings(max_examples=30)
@given(parameters=plants, seed=st.integers(0, 10**6), noise=st.floats(0, 0.9))
def test_a_change_is_small_and_within_the_configured_limit_whatever_is_measured(parameters, seed, noise):
    tuner = new_tuner()
    limits = [MOST, *play(tuner, plant_of(*parameters), steps=2000, noise=noise, seed=seed)]
    for before, after in itertools.pairwise(limits):
        assert 1 <= after <= MOST
        assert before - max(1, 0.13 * before + 1) <= after <= before + max(1, 0.15 * before)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_the_wildest_noise_turns_it_ever_more_rarely(seed):
    limits = play(new_tuner(), plant_of(0.0, 0.05 / 16, 1.0), steps=30_000, noise=0.95, seed=seed)
    # Each turn doubles the steps that are waited for, up to 64 times 32.
    assert turns(limits) <= 7 + 30_000 / (64 * 32)


def test_it_finds_back_when_a_machine_that_was_slow_is_fast_again():
    tuner = new_tuner()
    assert play(tuner, plant_of(0.01, 0.004, 1.0), steps=3000)[-1] <= 10
    limits = play(tuner, plant_of(0.001, 0.0002, 1.0), steps=8000)
    assert limits[-1] == MOST


@given(
    current=st.integers(1, 1000),
    seconds=st.floats(1e-6, 10),
    wanted=st.floats(1e-3, 1),
    fitting=st.integers(1, 1000),
    most=st.integers(1, 1000),
)
def test_one_decision_goes_the_right_way_and_not_far(current, seconds, wanted, fitting, most):
    current = min(current, most)
    after = next_limit(current, seconds=seconds, wanted_seconds=wanted, fitting=fitting, most=most)
    assert 1 <= after <= most
    if seconds > wanted:
        assert after < current or current == 1
    elif after > current:
        assert seconds < 0.75 * wanted
        assert seconds * after / current <= 0.9 * wanted * (1 + 1e-9)
        assert after <= fitting
    else:
        assert after == current


def test_steps_far_from_the_limit_say_nothing_about_it():
    tuner = new_tuner()
    for step in range(1000):
        tuner.record(rows=20, prompt_tokens=0, seconds=9.0, now=float(step))
    assert tuner.max_running == MOST
    assert not tuner.adjustments


def test_tokens_of_a_step_are_tuned_by_steps_with_prompts():
    tuner = new_tuner(running=8)
    for step in range(4000):
        tokens = tuner.max_batched_tokens
        tuner.record(rows=4, prompt_tokens=tokens - 4, seconds=0.002 + 0.0005 * tokens, now=float(step))
    assert 60 <= tuner.max_batched_tokens <= 96
    assert tuner.max_running == 8
    settled = tuner.max_batched_tokens
    found = tuner.cost.seconds(rows=4, prompt_tokens=settled - 4)
    assert found == pytest.approx(0.002 + 0.0005 * settled, rel=0.02)


def test_advice_is_given_once_and_changes_nothing(caplog):
    caplog.set_level(logging.INFO, logger="tritium.engine.tuning")
    tuner = new_tuner(mode="advise")
    play(tuner, plant_of(0.02, 0.001, 1.0), steps=1000)
    assert tuner.max_running == MOST
    assert [(each.before, each.after, each.is_applied) for each in tuner.adjustments] == [(64, 55, False)]
    assert caplog.messages == [
        "advice: max_running 64 -> 55: steps near max_running 64 take 84.0 ms (median), 50.0 ms are wanted"
    ]


def test_what_was_applied_is_logged_with_its_reason_and_can_be_undone(caplog):
    caplog.set_level(logging.INFO, logger="tritium.engine.tuning")
    tuner = new_tuner()
    play(tuner, plant_of(0.02, 0.001, 1.0), steps=70)
    assert [each.after for each in tuner.adjustments] == [55, 47]
    assert caplog.messages[0].startswith(
        "tuned: max_running 64 -> 55: steps near max_running 64 take 84.0 ms"
    )
    undone = tuner.undo()
    assert (undone.before, undone.after) == (55, 47)
    assert tuner.max_running == 55
    assert tuner.mode == "advise"  # or it would do the same again
    play(tuner, plant_of(0.02, 0.001, 1.0), steps=500)
    assert tuner.max_running == 55
    assert tuner.undo().before == 64
    assert tuner.undo() is None
    assert tuner.max_running == 64


@pytest.mark.parametrize("limits", [{"mode": "off"}, {"wanted": None}])
def test_without_a_latency_or_a_mode_it_only_learns(limits):
    tuner = new_tuner(**limits)
    play(tuner, plant_of(0.02, 0.001, 1.0), steps=500)
    assert tuner.max_running == MOST
    assert not tuner.adjustments
    assert tuner.cost.seconds(rows=64) == pytest.approx(0.084)


def test_a_real_engine_keeps_to_the_latency_it_is_given(new_engine, new_request, run_to_end):
    """A latency far below what a step of this model can take: the engine goes down to one at a time."""
    engine = new_engine(max_running=3, latency_seconds=1e-6, tuning="apply")
    requests = [new_request(str(n), f"{n} And it came to pass", max_tokens=80) for n in range(3)]
    free = new_engine()
    for request in requests:
        engine.add_request(request)
        free.add_request(request)
    outputs = run_to_end(engine)
    assert engine.metrics().max_running == 1
    assert [each.after for each in engine.metrics().tuned] == [2, 1]
    expected = run_to_end(free)
    for request in requests:
        got, same = (
            [token for output in each[request.request_id] for token in output.token_ids]
            for each in (outputs, expected)
        )
        assert got == same


@pytest.mark.parametrize("wrong", [{"tuning": "always"}, {"latency_seconds": 0}, {"latency_seconds": "fast"}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError) as caught:
        EngineConfig(**wrong)
    assert caught.value.details["param"] in wrong
