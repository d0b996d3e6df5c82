from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

import tritium
from tritium import LLM, SamplingParams
from tritium.engine.config import EngineConfig
from tritium.errors import ValidationError

GREEDY = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(scripture_llama) -> LLM:
    return LLM(scripture_llama, threads=1, config=EngineConfig(max_waiting=4, max_running=3))


def test_many_prompts_give_what_each_gives_alone_in_order(llm):
    prompts = [f"Verse {number}" for number in range(9)]  # more than the engine's queue holds
    together = llm.generate(prompts, sampling=GREEDY)
    assert [answer.text for answer in together] == [
        llm.generate(prompt, sampling=GREEDY)[0].text for prompt in prompts
    ]
    assert all(answer.completion_tokens == 10 and answer.finish_reason == "length" for answer in together)


def test_a_stream_gives_the_text_in_pieces_and_leaving_it_frees_the_engine(llm):
    whole = llm.generate("In the beginning", sampling=GREEDY)[0].text
    assert "".join(output.text for output in llm.stream("In the beginning", sampling=GREEDY)) == whole
    stream = llm.stream("In the beginning", sampling=SamplingParams(max_tokens=500, ignore_eos=True))
    next(stream)
    stream.close()
    assert llm.metrics().running == llm.metrics().kv_blocks_used == 0
    assert llm.generate("In the beginning", sampling=GREEDY)[0].text == whole


def test_a_model_answers_within_the_loop_over_its_own_stream(llm):
    whole = llm.generate("In the beginning", sampling=GREEDY)[0].text
    other = llm.generate("And", sampling=GREEDY)[0].text
    pieces = []
    for output in llm.stream("In the beginning", sampling=GREEDY):
        pieces.append(output.text)
        assert llm.generate("And", sampling=GREEDY)[0].text == other
    assert "".join(pieces) == whole
    assert llm.metrics().running == llm.metrics().waiting == llm.metrics().kv_blocks_used == 0


def test_streams_side_by_side_each_get_their_own_text(llm):
    prompts = [f"Verse {number}" for number in range(6)]  # more than run, and than wait, at once
    expected = [llm.generate(prompt, sampling=GREEDY)[0].text for prompt in prompts]
    streams = [llm.stream(prompt, sampling=GREEDY) for prompt in prompts]
    texts = [""] * len(prompts)
    for outputs in zip(*streams, strict=True):
        texts = [text + output.text for text, output in zip(texts, outputs, strict=True)]
    assert texts == expected


def test_a_stream_closed_in_the_midst_of_a_step_waits_for_nobody(llm, monkeypatch):
    left = llm.stream("In the beginning", sampling=SamplingParams(max_tokens=500, ignore_eos=True))
    next(left)
    step = llm._shared.engine.step

    def step_while_garbage_is_collected():
        left.close()  # the collector does this wherever it happens to run
        return step()

    monkeypatch.setattr(llm._shared.engine, "step", step_while_garbage_is_collected)
    assert llm.generate("And", sampling=GREEDY)[0].completion_tokens == 10
    assert llm.metrics().running == llm.metrics().kv_blocks_used == 0


def test_token_ids_are_a_prompt_too(llm):
    ids = llm.tokenizer.encode("In the beginning")
    expected = llm.generate("In the beginning", sampling=GREEDY)
    assert [answer.text for answer in llm.generate(ids, sampling=GREEDY)] == [expected[0].text]
    assert [a.text for a in llm.generate([ids, "In the beginning"], sampling=GREEDY)] == [
        expected[0].text
    ] * 2
    assert "".join(output.text for output in llm.stream(ids, sampling=GREEDY)) == expected[0].text
    assert llm.generate([]) == []


@pytest.mark.parametrize(
    ("method", "value", "param"),
    [
        ("generate", 5, "prompt"),
        ("generate", None, "prompt"),
        ("generate", b"bytes", "prompt"),
        ("generate", ["a", None], "prompt"),
        ("generate", [1, "a"], "prompt"),
        ("generate", [True], "prompt"),
        ("generate", [-1], "prompt"),
        ("generate", [10**9], "prompt"),
        ("stream", None, "prompt"),
        ("stream", ["a", "b"], "prompt"),
        ("stream", [], "prompt"),
        ("chat", "hi", "messages"),
        ("chat", None, "messages"),
        ("chat", [], "messages"),
        ("chat", ["hi"], "messages"),
        ("chat", {"role": "user", "content": "hi"}, "messages"),
        ("chat", [{"role": "user", "content": None}], "messages"),
        ("chat", [{"role": ["user"], "content": "hi"}], "messages"),
    ],
)
def test_what_is_no_prompt_is_refused_by_name(llm, method, value, param):
    with pytest.raises(ValidationError) as caught:
        getattr(llm, method)(value)
    assert caught.value.details["param"] == param
    assert caught.value.message[0].isupper()


def test_more_texts_than_the_queue_holds_are_embedded_in_order(minilm):
    texts = [f"Verse {number}" for number in range(5)]
    with LLM(minilm, threads=1) as llm:
        expected = np.concatenate([llm.embed(text) for text in texts])
        llm._batcher.config = replace(llm._batcher.config, max_waiting_inputs=2)
        np.testing.assert_array_equal(llm.embed(texts), expected)
        ids = llm.tokenizer.encode(texts[0])
        np.testing.assert_array_equal(llm.embed([ids, texts[1]]), expected[:2])


def test_what_cannot_be_embedded_is_refused_before_anything_is_computed(minilm, monkeypatch):
    with LLM(minilm, threads=1) as llm:
        monkeypatch.setattr(llm._batcher, "run_batch", lambda: pytest.fail("computed"))
        for wrong in ([], "", None, 5, ["a", "word " * 2000], ["a", ""], [[]]):
            with pytest.raises(ValidationError) as caught:
                llm.embed(wrong)
            assert caught.value.details["param"] == "input"
        with pytest.raises(ValidationError, match="does not write text"):
            llm.generate("x")
    with pytest.raises(ValidationError, match="closed"):
        llm.embed("x")


def test_an_embedding_broken_off_leaves_nothing_behind(minilm, monkeypatch):
    with LLM(minilm, threads=1) as llm:
        encode = llm._batcher._encode

        def interrupted(_inputs):
            monkeypatch.setattr(llm._batcher, "_encode", encode)
            raise KeyboardInterrupt

        monkeypatch.setattr(llm._batcher, "_encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.embed(["text"] * 40)  # more than one batch
        assert llm.embed("text").shape == (1, 384)
        assert not llm._batcher.has_work


def test_settings_of_another_kind_are_refused(llm, scripture_llama):
    with pytest.raises(ValidationError, match="SamplingParams"):
        llm.generate("And", sampling={"temperature": 0})
    with pytest.raises(ValidationError, match="EngineConfig"):
        LLM(scripture_llama, config={"max_running": 1})


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True, 1025])
def test_a_number_of_threads_that_cannot_be_is_refused_at_load(threads, scripture_llama):
    with pytest.raises(ValidationError, match="threads"):
        LLM(scripture_llama, threads=threads)


@pytest.mark.parametrize("source", [None, 5, b"path", "", ["path"]])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(ValidationError, match="path or its hub name"):
        LLM(source)


def test_a_closed_model_frees_its_memory_and_says_that_it_is_closed(scripture_llama):
    with LLM(scripture_llama, threads=1, config=EngineConfig(max_running=2)) as llm:
        stream = llm.stream("And", sampling=GREEDY)
        next(stream)
        memory = [weakref.ref(llm._shared.engine), weakref.ref(llm._shared.engine._cache)]
        llm.close()
        assert [reference() for reference in memory] == [None, None]
    for use in (
        lambda: next(stream),
        lambda: llm.generate("And"),
        lambda: llm.stream("And"),
        lambda: llm.chat([{"role": "user", "content": "And"}]),
        lambda: llm.embed("And"),
        llm.metrics,
    ):
        with pytest.raises(ValidationError, match="closed"):
            use()
    llm.close()


def test_a_chat_uses_the_models_template(llm):
    messages = [{"role": "user", "content": "In the beginning"}]
    prompt = llm.tokenizer.apply_chat_template(messages)
    assert llm.chat(messages, sampling=GREEDY).text == llm.generate(prompt, sampling=GREEDY)[0].text


def test_threads_take_turns(llm):
    expected = llm.generate("And", sampling=GREEDY)[0].text
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(llm.generate("And", sampling=GREEDY)[0].text))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 4


def test_a_native_ternary_checkpoint_runs_too(scripture_bitnet_bitlinear):
    answer = LLM(scripture_bitnet_bitlinear, threads=1).generate("In the beginning", sampling=GREEDY)[0]
    assert answer.completion_tokens == 10


def test_what_cannot_run_is_refused(llm, tmp_path):
    with pytest.raises(ValidationError, match="empty"):
        llm.generate("")
    with pytest.raises(ValidationError, match="context"):
        llm.generate("word " * 2000)
    with pytest.raises(ValidationError, match="vectors"):
        llm.embed("x")
    with pytest.raises(ValidationError, match="role"):
        llm.chat([{"role": "robot", "content": "x"}])
    with pytest.raises(ValidationError):
        LLM(tmp_path)


def test_importing_tritium_loads_nothing_heavy():
    code = (
        "import sys, tritium; assert tritium.__version__;"
        "assert not {'numpy', 'tokenizers', 'jinja2', 'fastapi'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_had():
    for name in tritium.__all__:
        assert getattr(tritium, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = tritium.nothing
