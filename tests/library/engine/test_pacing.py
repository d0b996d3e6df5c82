from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.pacing import PromptPacer


def steps(pacer, *, alone, token, rounds=60):
    """Plays steps of a machine that needs `alone` seconds and `token` more for each prompt token."""
    longest = 0.0
    for _ in range(rounds):
        pacer.record(alone, writing=4, prompt_tokens=0)
    for _ in range(rounds):
        budget = pacer.budget
        pacer.record(alone + budget * token, writing=4, prompt_tokens=budget)
        longest = max(longest, alone + budget * token) if _ else 0.0
    return longest


@given(alone=st.floats(1e-4, 0.5), per_step=st.floats(1.5, 400))
def test_a_prompt_never_makes_a_step_twice_as_long(alone, per_step):
    token = alone / per_step
    pacer = PromptPacer()
    assert steps(pacer, alone=alone, token=token) < 2 * alone
    assert pacer.budget >= max(1, int(0.3 * per_step))


def test_it_follows_a_machine_that_becomes_slower():
    pacer = PromptPacer()
    steps(pacer, alone=0.01, token=0.0001)
    generous = pacer.budget
    steps(pacer, alone=0.01, token=0.001)
    assert pacer.budget < generous / 5


def test_steps_of_prompts_alone_teach_nothing():
    pacer = PromptPacer()
    steps(pacer, alone=0.01, token=0.001)
    before = pacer.budget
    pacer.record(3.0, writing=0, prompt_tokens=512)
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
