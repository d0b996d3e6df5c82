import random

from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.pacing import PromptPacer


def steps(pacer, *, alone, token, chunk=0.0, rounds=60):
    """Plays steps that need `alone` seconds, `chunk` more with any prompt and `token` for each of its tokens.

    Returns what each took.
    """
    taken = []
    for _ in range(rounds):
        budget = pacer.budget
        seconds = alone + budget * token + (chunk if budget else 0.0)
        pacer.record(seconds, writing=4, prompt_tokens=budget)
        taken.append(seconds)
    return taken


@given(alone=st.floats(1e-4, 0.5), per_step=st.floats(1.5, 400))
def test_a_prompt_never_makes_a_step_twice_as_long(alone, per_step):
    pacer = PromptPacer()
    measured, _, *taken = steps(pacer, alone=alone, token=alone / per_step)
    assert measured == alone
    assert max(taken) <= 2.000001 * alone
    assert pacer.budget >= max(1, int(0.3 * per_step))


@given(alone=st.floats(1e-4, 0.5), per_step=st.floats(3, 400), chunk=st.floats(0, 0.4))
def test_steps_settle_at_the_slack_whatever_a_chunk_and_a_token_cost(alone, per_step, chunk):
    pacer = PromptPacer()
    token = alone / per_step
    taken = steps(pacer, alone=alone, token=token, chunk=chunk * alone)[-20:]
    # Tokens are whole, so it may step over the slack by one, and back.
    assert max(taken) <= 1.62 * alone + token
    assert max(taken) >= 1.55 * alone - 2 * token


def test_a_token_that_costs_too_much_still_goes_on_one_by_one():
    pacer = PromptPacer()
    steps(pacer, alone=0.01, token=0.02)
    assert pacer.budget == 1


def test_it_follows_a_machine_that_becomes_slower_and_faster_again():
    pacer = PromptPacer()
    steps(pacer, alone=0.01, token=0.0001)
    generous = pacer.budget
    steps(pacer, alone=0.01, token=0.001)
    assert 4 <= pacer.budget <= 6
    steps(pacer, alone=0.01, token=0.0001)
    assert pacer.budget == generous


def test_steps_that_differ_by_a_third_do_not_starve_the_prompt():
    noise = random.Random(3)
    pacer = PromptPacer()
    budgets = []
    for _ in range(400):
        budget = pacer.budget
        budgets.append(budget)
        seconds = (0.005 + 0.0002 * budget) * noise.uniform(0.85, 1.15)
        pacer.record(seconds, writing=4, prompt_tokens=budget)
    paced = [budget for budget in budgets[100:] if budget]
    assert 10 <= sum(paced) / len(paced) <= 20  # without noise: 15


def test_steps_of_prompts_alone_and_steps_it_did_not_pace_teach_nothing():
    pacer = PromptPacer()
    steps(pacer, alone=0.01, token=0.001)
    before = pacer.budget
    pacer.record(3.0, writing=0, prompt_tokens=512)
    pacer.record(3.0, writing=4, prompt_tokens=512)
    assert pacer.budget == before


def test_the_end_of_a_prompt_does_not_raise_the_budget():
    pacer = PromptPacer()
    steps(pacer, alone=0.01, token=0.001)
    before = pacer.budget
    for _ in range(5):
        pacer.record(0.0101, writing=4, prompt_tokens=1)
    assert pacer.budget == before


def test_it_looks_at_a_step_without_prompts_first_and_from_time_to_time():
    pacer = PromptPacer()
    assert pacer.budget == 0
    pacer.record(0.01, writing=4, prompt_tokens=0)
    paced = 0
    while pacer.budget:
        pacer.record(0.01 + pacer.budget * 0.0001, writing=4, prompt_tokens=pacer.budget)
        paced += 1
    assert paced == 16
    pacer.record(0.002, writing=1, prompt_tokens=0)
    assert pacer.budget
