from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.cost import StepCost, StepSums

steps = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 600), st.floats(1e-5, 2)), min_size=1, max_size=40
)


def parts(most):
    """Parts of a cost: none, or at least a tenth of a microsecond."""
    return st.one_of(st.just(0.0), st.floats(1e-7, most))


def sums_of(measured):
    sums = StepSums()
    for rows, prompt_tokens, seconds in measured:
        sums.add(rows=rows, prompt_tokens=prompt_tokens, seconds=seconds)
    return sums


@given(cost=st.builds(StepCost, fixed=parts(0.1), per_row=parts(0.01), per_prompt_token=parts(0.01)))
def test_steps_without_noise_give_the_cost_back(cost):
    grid = [(rows, prompt) for rows in (0, 1, 7, 16) for prompt in (0, 5, 64, 300) if rows + prompt]
    found = sums_of(
        [(rows, prompt, cost.seconds(rows=rows, prompt_tokens=prompt)) for rows, prompt in grid]
    ).fit()
    # What is a ten-thousandth of the dearest step for each of its tokens cannot be told from rounding.
    least = 1e-4 * max(cost.seconds(rows=1), cost.seconds(rows=0, prompt_tokens=1))
    for rows, prompt in grid:
        expected = cost.seconds(rows=rows, prompt_tokens=prompt)
        got = found.seconds(rows=rows, prompt_tokens=prompt)
        assert abs(got - expected) <= 1e-3 * expected + least * (rows + prompt)


@given(measured=steps)
def test_no_cost_without_a_negative_part_has_a_smaller_error(measured):
    measured = [step for step in measured if step[0] + step[1]]
    best = sums_of(measured).fit()
    parts = np.array([best.fixed, best.per_row, best.per_prompt_token])
    assert (parts >= 0).all()

    def error(values):
        cost = StepCost(fixed=values[0], per_row=values[1], per_prompt_token=values[2])
        return sum(
            ((cost.seconds(rows=rows, prompt_tokens=prompt) - seconds) / (rows + prompt)) ** 2
            for rows, prompt, seconds in measured
        )

    whole = error(np.zeros(3))
    for part in range(3):  # the error is convex: no better neighbour, no better point
        for move in (1e-3, -1e-3):
            near = parts.copy()
            near[part] = max(0.0, near[part] * (1 + move) + (1e-4 if move > 0 else 0.0))
            assert error(near) >= error(parts) - 1e-6 * whole


@given(first=steps, second=steps)
def test_sums_of_parts_are_the_sums_of_the_whole_and_survive_a_file(first, second):
    whole, parts = sums_of(first + second), sums_of(first) + sums_of(second)
    assert np.allclose(whole.to_list(), parts.to_list())
    assert StepSums.from_list(whole.to_list()) == whole


def test_steps_that_are_all_alike_are_believed_to_cost_in_proportion():
    found = sums_of([(8, 0, 0.04)] * 20).fit()
    assert np.isclose(found.seconds(rows=16), 0.08)


def test_older_steps_count_for_less():
    sums = sums_of([(4, 0, 1.0)] * 50)
    sums.age(0.001)
    sums.add(rows=4, prompt_tokens=0, seconds=0.1)
    assert 0.1 < sums.fit().seconds(rows=4) < 0.2


def test_noise_of_a_third_leaves_the_cost_within_a_few_percent():
    chance = random.Random(5)
    true = StepCost(fixed=0.004, per_row=0.0004, per_prompt_token=0.0002)
    measured = []
    for _ in range(4000):
        rows, prompt = chance.randint(1, 32), chance.choice((0, 0, 8, 100))
        seconds = true.seconds(rows=rows, prompt_tokens=prompt) * chance.uniform(0.67, 1.33)
        measured.append((rows, prompt, seconds))
    found = sums_of(measured).fit()
    for rows, prompt in ((1, 0), (16, 0), (32, 0), (16, 100)):
        expected = true.seconds(rows=rows, prompt_tokens=prompt)
        assert abs(found.seconds(rows=rows, prompt_tokens=prompt) / expected - 1) < 0.05


def test_no_step_costs_nothing():
    assert StepSums().fit() == StepCost()
    assert sums_of([(0, 0, 3.0)]).fit() == StepCost()
