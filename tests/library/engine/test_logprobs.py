from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.grammar import Grammar
from tritium.engine.logprobs import ScoredText
from tritium.engine.request import ScoredToken, TokenLogprob
from tritium.errors import ValidationError
from tritium.kernels import reference

PROMPTS = ["In the beginning", "And it came to pass that", "q"]


def text_of(outputs) -> str:
    return "".join(output.text for output in outputs)


def scored(outputs) -> list[ScoredToken]:
    return [token for output in outputs for token in output.logprobs]


def spelled(outputs) -> bytes:
    return b"".join(token.chosen.spelling or b"" for token in scored(outputs))


def run_alone(new_engine, run_to_end, request, **limits):
    engine = new_engine(**limits)
    engine.add_request(request)
    return run_to_end(engine)[request.request_id]


def test_log_probabilities_are_those_of_the_model_computed_whole(
    scripture, new_engine, new_request, run_to_end
):
    # Penalties, biases and temperature choose another token; they change nothing of what the model thinks.
    request = new_request(
        "r", PROMPTS[1], logprobs=3, temperature=1.3, seed=4, presence_penalty=1.5, logit_bias={7: 5.0}
    )
    outputs = run_alone(new_engine, run_to_end, request, kv_dtype="fp32")
    tokens = list(request.prompt_token_ids)
    for token in scored(outputs):
        logits = scripture.generator.forward_full(tokens)[-1]
        chosen, best = reference.log_probabilities(logits, token=token.chosen.token_id, top=3)
        assert token.chosen.logprob == pytest.approx(chosen, abs=1e-4)
        assert [each.token_id for each in token.top] == [index for index, _ in best]
        assert [each.logprob for each in token.top] == pytest.approx([value for _, value in best], abs=1e-4)
        tokens.append(token.chosen.token_id)
    assert tokens[-12:] == [token for output in outputs for token in output.token_ids]


@pytest.mark.parametrize("limits", [{}, {"max_batched_tokens": 7}, {"kv_cache_bytes": 1728 * 16 * 6}])
def test_log_probabilities_are_the_same_to_the_bit_alone_and_in_any_batch(
    new_engine, new_request, run_to_end, limits
):
    asked = {"logprobs": 2, "logit_bias": {9: 3.5, 11: -100}, "temperature": 0.8, "seed": 3}
    requests = [new_request(str(place), prompt, **asked) for place, prompt in enumerate(PROMPTS)]
    engine = new_engine(**limits)
    for request in requests:
        engine.add_request(request)
    together = run_to_end(engine)
    for request in requests:
        expected = scored(run_alone(new_engine, run_to_end, request))
        assert scored(together[request.request_id]) == expected
        assert all(token.top[0].logprob >= token.top[1].logprob for token in expected)


@pytest.mark.serve
def test_half_a_character_waits_for_its_other_half(new_engine, new_request, run_to_end):
    text = "é 😀 日"
    form = Grammar(kind="grammar", source=f'start: "{text}"')
    outputs = run_alone(
        new_engine, run_to_end, new_request("r", "q", grammar=form, logprobs=0, max_tokens=40)
    )
    assert (text_of(outputs), spelled(outputs).decode()) == (text, text)
    assert len(scored(outputs)) > len(text)
    assert any(output.token_ids and not output.text for output in outputs)
    for output in outputs:
        assert b"".join(token.chosen.spelling for token in output.logprobs).decode() == output.text


@pytest.mark.parametrize("length", [1, 3, 7, 40])
def test_what_a_stop_text_cuts_off_has_no_log_probabilities(new_engine, new_request, run_to_end, length):
    free = run_alone(new_engine, run_to_end, new_request("r", PROMPTS[1], max_tokens=40, logprobs=0))
    text = text_of(free)
    assert spelled(free).decode() == text
    for start in range(0, len(text) - length, 5):
        stop = text[start : start + length]
        request = new_request("r", PROMPTS[1], max_tokens=40, logprobs=0, stop=(stop,))
        stopped = run_alone(new_engine, run_to_end, request)
        shown = text_of(stopped)
        assert shown == text[: text.index(stop)]
        found = spelled(stopped).decode()
        assert found.startswith(shown)
        last = scored(stopped)[-1].chosen.spelling if shown else b""
        assert len(found) - len(shown) < max(1, len(last))
        for output in stopped:
            assert bool(output.text) == bool(output.logprobs)


def test_an_end_token_is_not_among_the_scored(new_engine, new_request, run_to_end, scripture):
    (end, *_) = scripture.tokenizer.eos_token_ids
    request = new_request("r", PROMPTS[0], logprobs=1, ignore_eos=False, logit_bias={end: 100})
    (output,) = run_alone(new_engine, run_to_end, request)
    assert (output.finish_reason, output.text, output.logprobs) == ("stop", "", ())


def test_who_does_not_ask_gets_none(new_engine, new_request, run_to_end):
    outputs = run_alone(new_engine, run_to_end, new_request("r", PROMPTS[0]))
    assert scored(outputs) == []


def test_a_bias_bans_forces_and_shifts(new_engine, new_request, run_to_end):
    def tokens(**sampling) -> list[int]:
        outputs = run_alone(new_engine, run_to_end, new_request("r", PROMPTS[1], **sampling))
        return [token for output in outputs for token in output.token_ids]

    free = tokens()
    banned = tokens(logit_bias={free[0]: -100})
    assert free[0] not in banned
    assert set(tokens(logit_bias={42: 100}, temperature=1.9, seed=1)) == {42}
    assert tokens(logit_bias={free[0]: 0.0}) == free
    # Forced, and penalised once too often: the penalty counts as well.
    shared = tokens(logit_bias={42: 100, 43: 99}, presence_penalty=2.0)
    assert shared[0] == 42
    assert 43 in shared


def test_a_bias_for_a_token_that_is_not_there_is_refused(new_engine, new_request):
    with pytest.raises(ValidationError, match="4095") as caught:
        new_engine().add_request(new_request("r", "q", logit_bias={4096: 1.0}))
    assert caught.value.details["param"] == "logit_bias"


@pytest.mark.parametrize("limits", [{}, {"max_batched_tokens": 5}, {"kv_cache_bytes": 1728 * 16 * 32}])
def test_an_echo_scores_the_prompt_as_the_model_computed_whole_does(
    scripture, new_engine, new_request, run_to_end, limits
):
    text = "And it came to pass in those days, that there went out a decree from Caesar Augustus. " * 4
    request = new_request("r", text, echo=True, logprobs=2, max_tokens=3)
    engine = new_engine(kv_dtype="fp32", **limits)
    engine.add_request(new_request("before", text, max_tokens=1))
    run_to_end(engine)  # what it computed is in the cache, and cannot be scored
    others = [new_request(str(place), text[place:], max_tokens=9) for place in range(3)]
    for each in (request, *others):
        engine.add_request(each)
    outputs = run_to_end(engine)["r"]
    prompt = list(request.prompt_token_ids)
    assert len(prompt) > 64  # more than one step scores
    logits = scripture.generator.forward_full(prompt)
    found = scored(outputs)
    assert [token.chosen.token_id for token in found[: len(prompt)]] == prompt
    assert (found[0].chosen.logprob, found[0].top) == (None, ())
    for place, token in enumerate(found[1 : len(prompt)]):
        chosen, best = reference.log_probabilities(logits[place], token=prompt[place + 1], top=2)
        assert token.chosen.logprob == pytest.approx(chosen, abs=1e-3)
        assert token.top[0].logprob == pytest.approx(best[0][1], abs=1e-3)
    assert len(found) == len(prompt) + 3
    assert text_of(outputs).startswith(text)
    assert spelled(outputs).decode() == text_of(outputs)
    assert outputs[-1].completion_tokens == 3
    assert outputs[0].cached_tokens == 0


def test_an_echo_alone_is_the_prompt_before_the_same_answer(new_engine, new_request, run_to_end):
    for prompt in (*PROMPTS, "é 😀 日"):
        for stop in ((), ("a",)):
            plain = run_alone(new_engine, run_to_end, new_request("r", prompt, stop=stop))
            echoed = run_alone(new_engine, run_to_end, new_request("r", prompt, stop=stop, echo=True))
            assert text_of(echoed) == prompt + text_of(plain)
            assert scored(echoed) == []


@given(st.lists(st.tuples(st.binary(max_size=4), st.integers(0, 3))), st.booleans())
def test_scored_text_hands_out_every_token_once_and_in_order(pieces, is_all):
    held, taken = ScoredText(), []
    for place, (spelling, shown) in enumerate(pieces):
        each = TokenLogprob(token_id=place, token="", spelling=spelling, logprob=-math.inf)
        held.add(ScoredToken(chosen=each, top=()))
        taken += held.take("x" * shown, is_all=False)
        assert sum(len(token.chosen.spelling) for token in taken[:-1]) <= sum(
            n for _, n in pieces[: place + 1]
        )
    taken += held.take("", is_all=is_all)
    assert [token.chosen.token_id for token in taken] == list(range(len(taken)))
    assert len(taken) == len(pieces) or not is_all
