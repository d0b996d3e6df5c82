from __future__ import annotations

import subprocess
import sys
import threading

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
