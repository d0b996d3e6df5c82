from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tritium.engine.config import EngineConfig
from tritium.engine.engine import Engine
from tritium.engine.first_come import FirstComeFirstServed
from tritium.engine.request import ContextLengthExceededError, QueueFullError
from tritium.errors import InsufficientMemoryError, ProcessingError, ValidationError

PROMPTS = [
    "In the beginning",
    "And it came to pass that",
    "hacker: n. A person who enjoys exploring the details of programmable systems",
    "The LORD is my shepherd; I shall not want. He maketh me to lie down in green pastures",
    "q",
]


def text_of(outputs) -> str:
    return "".join(output.text for output in outputs)


def tokens_of(outputs) -> tuple[int, ...]:
    return tuple(token for output in outputs for token in output.token_ids)


def alone(new_engine, run_to_end, request, **limits) -> tuple[int, ...]:
    engine = new_engine(**limits)
    engine.add_request(request)
    return tokens_of(run_to_end(engine)[request.request_id])


def test_greedy_tokens_are_those_of_the_model_computed_whole(scripture, new_engine, new_request, run_to_end):
    request = new_request("r", PROMPTS[3], max_tokens=6)
    tokens = list(request.prompt_token_ids)
    for _ in range(6):
        tokens.append(int(scripture.generator.forward_full(tokens)[-1].argmax()))
    # The model alone keeps float32.
    assert alone(new_engine, run_to_end, request, kv_dtype="fp32") == tuple(tokens[-6:])


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 5, "top_p": 0.95}])
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_batched_tokens": 7},  # prompts are cut into chunks
        {"max_running": 2},
        {"kv_cache_bytes": 1728 * 16 * 6},  # six blocks: requests take blocks from each other
        {"max_batched_tokens": 5, "max_running": 3},
    ],
)
def test_a_request_gives_the_same_tokens_alone_and_in_any_batch(
    new_engine, new_request, run_to_end, limits, sampling
):
    requests = [new_request(str(place), prompt, **sampling) for place, prompt in enumerate(PROMPTS)]
    expected = {request.request_id: alone(new_engine, run_to_end, request) for request in requests}
    engine = new_engine(**limits)
    outputs: dict[str, list] = {}
    for request in requests:
        engine.add_request(request)
        if "kv_cache_bytes" in limits:
            continue  # all at once, so that they must share
        for output in engine.step():  # they join while others run
            outputs.setdefault(output.request_id, []).append(output)
    for request_id, rest in run_to_end(engine).items():
        outputs.setdefault(request_id, []).extend(rest)
    assert {request_id: tokens_of(items) for request_id, items in outputs.items()} == expected
    assert engine.metrics().kv_blocks_used == 0
    if "kv_cache_bytes" in limits:
        assert engine.metrics().preemptions > 0


def test_the_logits_themselves_are_bit_identical_alone_and_in_a_batch(scripture):
    from tritium.model.batch import ForwardBatch  # noqa: PLC0415 - only this test looks below the engine

    model = scripture.generator
    sequences = [scripture.tokenizer.encode(prompt) for prompt in PROMPTS]
    together = ForwardBatch.of_sequences(sequences)
    rows = model.forward(together, model.new_cache(together.num_blocks))
    for sequence, start in zip(sequences, together.sequence_starts, strict=False):
        own = model.forward_full(sequence)
        assert np.array_equal(own.view(np.uint32), rows[start : start + len(sequence)].view(np.uint32))


def test_a_seed_gives_the_same_text_again_and_another_seed_another(new_engine, new_request, run_to_end):
    def run(seed):
        request = new_request("r", "And", temperature=1.0, seed=seed, max_tokens=20)
        return alone(new_engine, run_to_end, request)

    assert run(1) == run(1) != run(2)
    assert run(None) != run(None)


def test_a_stop_text_across_tokens_ends_the_text_before_it(new_engine, new_request, run_to_end):
    engine = new_engine()
    engine.add_request(new_request("free", "In the beginning", max_tokens=24))
    free = text_of(run_to_end(engine)["free"])
    stop = free[8:17]  # it lies over several tokens
    engine.add_request(new_request("r", "In the beginning", max_tokens=24, stop=(stop,)))
    outputs = run_to_end(engine)["r"]
    assert text_of(outputs) == free[: free.index(stop)]
    assert outputs[-1].finish_reason == "stop"
    shown = ""
    for output in outputs:
        shown += output.text
        assert free.startswith(shown)


def test_max_tokens_and_the_context_end_a_text_with_length(new_engine, new_request, run_to_end):
    engine = new_engine(max_context=20)
    engine.add_request(new_request("some", "In the beginning", max_tokens=5))
    engine.add_request(new_request("all", "In the beginning", max_tokens=None))
    outputs = run_to_end(engine)
    assert [outputs[name][-1].finish_reason for name in ("some", "all")] == ["length", "length"]
    assert outputs["some"][-1].completion_tokens == 5
    assert outputs["all"][-1].prompt_tokens + outputs["all"][-1].completion_tokens == 20


def test_the_end_token_ends_a_text_and_is_not_shown(scripture, new_engine, new_request, run_to_end):
    engine = new_engine()
    engine.add_request(new_request("free", "In the beginning"))
    free = tokens_of(run_to_end(engine)["free"])
    engine._writer._end_tokens = frozenset({free[5]})
    engine.add_request(new_request("r", "In the beginning", ignore_eos=False))
    outputs = run_to_end(engine)["r"]
    cut = free[: free.index(free[5]) + 1]
    assert (tokens_of(outputs), outputs[-1].finish_reason) == (cut, "stop")
    assert text_of(outputs) == scripture.tokenizer.decode(cut[:-1])
    assert outputs[-1].completion_tokens == len(cut)


def test_streamed_text_is_the_decoded_text_of_all_tokens(scripture, new_engine, new_request, run_to_end):
    engine = new_engine()
    for place in range(8):
        # Hot sampling of a byte-level vocabulary gives broken UTF-8 often enough.
        request = new_request(str(place), "In", temperature=2.0, seed=place, max_tokens=30)
        engine.add_request(request)
    for outputs in run_to_end(engine).values():
        assert text_of(outputs) == scripture.tokenizer.decode(tokens_of(outputs))


def test_penalties_keep_a_text_from_repeating_itself(new_engine, new_request, run_to_end):
    engine = new_engine()
    engine.add_request(new_request("plain", "and and and and", max_tokens=40))
    engine.add_request(new_request("fresh", "and and and and", max_tokens=40, presence_penalty=2.0))
    engine.add_request(new_request("rare", "and and and and", max_tokens=40, frequency_penalty=2.0))
    variety = {name: len(set(tokens_of(outputs))) for name, outputs in run_to_end(engine).items()}
    assert variety["plain"] < variety["fresh"]
    assert variety["plain"] < variety["rare"]


def test_the_shares_of_a_step_sum_to_the_steps(new_engine, new_request):
    engine = new_engine(max_batched_tokens=9)
    for place, prompt in enumerate(PROMPTS):
        engine.add_request(new_request(str(place), prompt, max_tokens=4 + place))
    sequences = list(engine._sequences.values())
    while engine.has_work:
        engine.step()
    assert sum(sequence.compute_nanoseconds for sequence in sequences) == engine._monitor.step_nanoseconds
    assert all(sequence.compute_nanoseconds > 0 for sequence in sequences)


def test_usage_is_counted_not_estimated(new_engine, new_request, run_to_end):
    engine = new_engine()
    request = new_request("r", PROMPTS[3], max_tokens=9)
    engine.add_request(request)
    last = run_to_end(engine)["r"][-1]
    assert (last.prompt_tokens, last.completion_tokens) == (len(request.prompt_token_ids), 9)
    computed = len(request.prompt_token_ids) + 9 - 1  # the last token is never computed
    assert last.peak_kv_bytes == -(-computed // 16) * engine.block_bytes
    assert last.queue_seconds >= 0
    metrics = engine.metrics()
    assert metrics.generated_tokens == 9
    assert metrics.prompt_tokens == len(request.prompt_token_ids)
    assert metrics.time_to_first_token.count == 1
    assert metrics.inter_token_latency.count == 8
    assert metrics.finished == {"length": 1}


def test_a_long_prompt_does_not_hold_up_those_who_are_writing(new_engine, new_request):
    engine = new_engine(max_batched_tokens=8)
    engine.add_request(new_request("short", "In", max_tokens=30))
    engine.step()
    engine.add_request(new_request("long", " ".join(PROMPTS) * 3, max_tokens=1))
    written = [[output.request_id for output in engine.step()] for _ in range(20)]
    assert written == [["short"]] * 20
    assert 20 <= engine._sequences["long"].num_computed <= 20 * 7


def test_the_policy_decides_who_comes_first(scripture, new_request, run_to_end):
    class LastComeFirstServed(FirstComeFirstServed):
        def rank(self, sequence):
            return (-sequence.serial,)

    engine = Engine(
        scripture.generator,
        tokenizer=scripture.tokenizer,
        end_token_ids=(),
        config=EngineConfig(max_running=1),
        policy=LastComeFirstServed(),
    )
    for name in "abc":
        engine.add_request(new_request(name, "In", max_tokens=2))
    assert list(run_to_end(engine)) == ["c", "b", "a"]


def test_a_flood_does_not_hold_up_another_tenant_and_changes_none_of_its_tokens(
    new_engine, new_request, run_to_end
):
    engine = new_engine(max_running=2)
    for number in range(12):
        engine.add_request(dataclasses.replace(new_request(f"flood {number}", PROMPTS[1]), tenant="flood"))
    for _ in range(30):
        engine.step()
    quiet = dataclasses.replace(new_request("quiet", PROMPTS[0], temperature=0.8, seed=3), tenant="quiet")
    engine.add_request(quiet)
    outputs = run_to_end(engine)
    order = [request_id for request_id, own in outputs.items() if own[0].completion_tokens == 1]
    assert order[0] == "quiet"
    assert len(order) > 4
    assert tokens_of(outputs["quiet"]) == alone(new_engine, run_to_end, quiet)


@pytest.mark.parametrize("steps", [0, 1, 2, 6])
def test_an_aborted_request_gives_everything_back_in_every_state(new_engine, new_request, run_to_end, steps):
    engine = new_engine(max_batched_tokens=8, max_running=2)
    for place, prompt in enumerate(PROMPTS):
        engine.add_request(new_request(str(place), prompt))
    for _ in range(steps):
        engine.step()
    for place in (0, 3, 4):
        output = engine.abort(str(place))
        assert output is None or output.finish_reason == "abort"
    assert engine.abort("nobody") is None
    rest = run_to_end(engine)
    for place in (1, 2):
        expected = alone(new_engine, run_to_end, new_request(str(place), PROMPTS[place]))
        if steps == 0:
            assert tokens_of(rest[str(place)]) == expected
    assert engine.metrics().kv_blocks_used == 0
    assert not engine.has_work


def test_a_prompt_that_can_never_fit_is_refused_with_the_limit(new_engine, new_request):
    engine = new_engine(kv_cache_bytes=1728 * 16 * 2)  # two blocks of sixteen tokens
    with pytest.raises(ContextLengthExceededError, match="32 tokens") as caught:
        engine.add_request(new_request("r", "word " * 40, max_tokens=1))
    assert caught.value.details["limit"] == 32
    with pytest.raises(ContextLengthExceededError) as caught:
        engine.add_request(new_request("r", "In", max_tokens=40))
    assert caught.value.details["param"] == "max_tokens"


def test_an_empty_prompt_a_foreign_token_and_a_used_id_are_refused(new_engine, new_request):
    engine = new_engine()
    good = new_request("r", "In")
    with pytest.raises(ValidationError, match="empty"):
        engine.add_request(dataclasses.replace(good, prompt_token_ids=()))
    with pytest.raises(ValidationError, match="4095"):
        engine.add_request(dataclasses.replace(good, prompt_token_ids=(4096,)))
    engine.add_request(good)
    with pytest.raises(ValidationError, match="id"):
        engine.add_request(good)


def test_a_full_queue_refuses_one_more(new_engine, new_request):
    engine = new_engine(max_waiting=2)
    engine.add_request(new_request("a", "In"))
    engine.add_request(new_request("b", "In"))
    with pytest.raises(QueueFullError) as caught:
        engine.add_request(new_request("c", "In"))
    assert caught.value.details == {
        "limit_name": "requests",
        "limit": 2,
        "current": 2,
        "retry_after": 1,
    }


def test_a_budget_below_one_block_is_refused(new_engine):
    with pytest.raises(InsufficientMemoryError):
        new_engine(kv_cache_bytes=1000)


class FailsOnToken:
    """The real model, except that one token makes it fail, as a defect in a kernel would."""

    def __init__(self, model, *, token: int, error: Exception | None) -> None:
        self._model = model
        self._token = token
        self._error = error
        self.config = model.config
        self.threads = model.threads

    def forward(self, batch, cache):
        is_hit = (batch.token_ids == self._token).any()
        if is_hit and self._error is not None:
            raise self._error
        logits = self._model.forward(batch, cache)
        if is_hit:
            logits[:] = np.nan
        return logits


@pytest.mark.parametrize("error", [RuntimeError("boom"), MemoryError(), ProcessingError("overflow")])
def test_a_request_on_which_the_model_fails_takes_nobody_along(
    scripture, new_engine, new_request, run_to_end, error
):
    good, bad = new_request("good", "In the beginning"), new_request("bad", "zebra")
    model = FailsOnToken(scripture.generator, token=bad.prompt_token_ids[-1], error=error)
    engine = new_engine(model=model)
    engine.add_request(bad)
    engine.add_request(good)
    outputs = run_to_end(engine)
    assert [output.finish_reason for output in outputs["bad"]] == ["error"]
    assert "boom" not in outputs["bad"][0].error
    assert tokens_of(outputs["good"]) == alone(new_engine, run_to_end, good)
    assert engine.metrics().kv_blocks_used == 0


def test_numbers_that_are_not_finite_end_their_request_with_an_error(
    scripture, new_engine, new_request, run_to_end
):
    bad = new_request("bad", "zebra")
    engine = new_engine(model=FailsOnToken(scripture.generator, token=bad.prompt_token_ids[-1], error=None))
    engine.add_request(bad)
    outputs = run_to_end(engine)
    assert outputs["bad"][-1].finish_reason == "error"
    assert "not finite" in outputs["bad"][-1].error
