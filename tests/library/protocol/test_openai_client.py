from __future__ import annotations

import asyncio
import threading

import openai
import pytest

MESSAGES = [{"role": "user", "content": "In the beginning"}]


def ask(client, **changes):
    settings = {"model": "scripture", "messages": MESSAGES, "max_tokens": 12, "temperature": 0} | changes
    return client.chat.completions.create(**settings)


def chat_prompt_tokens(tokenizer, messages=MESSAGES) -> int:
    return len(tokenizer.encode(tokenizer.apply_chat_template(messages), add_special=False))


def joined(chunks, *, index: int = 0) -> str:
    return "".join(
        choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index
    )


def test_the_models_are_listed_and_shown(client):
    assert [model.id for model in client.models.list()] == ["scripture"]
    card = client.models.retrieve("scripture")
    assert (card.id, card.object, card.owned_by) == ("scripture", "model", "tritium")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_a_chat_is_answered_with_exact_usage(client, scripture_tokenizer):
    answer = ask(client)
    (choice,) = answer.choices
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "scripture"
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert answer.usage.prompt_tokens == chat_prompt_tokens(scripture_tokenizer)
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer._request_id


def test_a_stream_brings_the_same_text_piece_by_piece(client):
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert joined(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_no_text_waits_for_the_token_behind_it(client, engine_thread, monkeypatch):
    """The engine takes a step only once the client has all text of the steps before."""
    written, read, all_is_read = [], [], threading.Condition()
    take_step = engine_thread._engine.step

    def step_behind_the_reader():
        with all_is_read:
            all_is_read.wait_for(lambda: len("".join(read)) == len("".join(written)), timeout=10)
        outputs = take_step()
        written.extend(output.text for output in outputs)
        return outputs

    monkeypatch.setattr(engine_thread._engine, "step", step_behind_the_reader)
    for chunk in ask(client, stream=True):
        with all_is_read:
            read.append(joined([chunk]))
            all_is_read.notify()
    assert [text for text in read if text] == [text for text in written if text]
    assert sum(map(bool, read)) > 6


def test_a_stream_without_the_option_carries_no_usage(client):
    chunks = list(ask(client, stream=True))
    assert all(chunk.usage is None for chunk in chunks)


def test_the_client_library_reads_the_stream_by_its_own_helper(client):
    stop = ask(client, max_tokens=30).choices[0].message.content[10:17]
    settings = {"model": "scripture", "messages": MESSAGES, "temperature": 0, "stop": stop}
    with client.chat.completions.stream(**settings) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == ask(client, stop=stop).choices[0].message.content


def test_the_greedy_text_is_that_of_the_library(client, scripture_llama):
    from tritium import LLM, SamplingParams  # noqa: PLC0415 - the other side of the comparison

    prompt = "And God said unto Moses"
    expected = LLM(scripture_llama, threads=1).generate(
        prompt, sampling=SamplingParams(temperature=0, max_tokens=20)
    )
    answer = client.completions.create(model="scripture", prompt=prompt, max_tokens=20, temperature=0)
    assert answer.choices[0].text == expected[0].text
    assert answer.usage.prompt_tokens == expected[0].prompt_tokens


async def test_eight_streams_at_once_are_each_what_they_are_alone(async_client):
    async def read(seed: int) -> str:
        stream = await ask(async_client, stream=True, temperature=0.9, seed=seed, max_tokens=24)
        return joined([chunk async for chunk in stream])

    together = await asyncio.gather(*(read(seed) for seed in range(8)))
    alone = [await read(seed) for seed in range(8)]
    assert together == alone
    assert len(set(together)) > 1


def test_a_stop_text_ends_the_answer_and_is_not_in_it(client):
    free = ask(client, max_tokens=30).choices[0].message.content
    stop = free[10:17]
    for stops in (stop, ["never appears", stop]):
        choice = ask(client, max_tokens=30, stop=stops).choices[0]
        assert (choice.message.content, choice.finish_reason) == (free[: free.index(stop)], "stop")
    chunks = list(ask(client, max_tokens=30, stop=stop, stream=True))
    assert joined(chunks) == free[: free.index(stop)]


def test_several_choices_differ_and_their_prompt_counts_once(client, scripture_tokenizer):
    answer = ask(client, n=3, seed=11, temperature=1.0)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert answer.usage.prompt_tokens == chat_prompt_tokens(scripture_tokenizer)
    assert answer.usage.completion_tokens == 36
    chunks = list(ask(client, n=3, seed=11, temperature=1.0, stream=True))
    for choice in answer.choices:
        assert joined(chunks, index=choice.index) == choice.message.content


def test_completions_take_all_four_forms_of_prompt(client, scripture_tokenizer):
    texts = ["In the beginning", "And it came to pass"]
    ids = [scripture_tokenizer.encode(text) for text in texts]

    def run(prompt):
        return client.completions.create(model="scripture", prompt=prompt, max_tokens=6, temperature=0)

    from_texts, from_ids = run(texts), run(ids)
    assert [choice.text for choice in from_texts.choices] == [choice.text for choice in from_ids.choices]
    assert run(texts[1]).choices[0].text == run(ids[1]).choices[0].text == from_texts.choices[1].text
    assert from_texts.usage.prompt_tokens == sum(map(len, ids))
    assert from_texts.usage.completion_tokens == 12


def test_a_plain_completion_streams_too(client):
    whole = client.completions.create(model="scripture", prompt="Now", max_tokens=9, temperature=0)
    chunks = list(
        client.completions.create(
            model="scripture",
            prompt="Now",
            max_tokens=9,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


def test_the_limit_of_new_tokens_has_two_names(client):
    assert ask(client, max_tokens=None, max_completion_tokens=3).usage.completion_tokens == 3
    with pytest.raises(openai.BadRequestError, match="differ"):
        ask(client, max_tokens=4, max_completion_tokens=3)


def test_content_in_parts_and_the_developer_role_are_understood(client):
    parts = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "In the "}, {"type": "text", "text": "beginning"}],
        }
    ]
    assert ask(client, messages=parts).choices[0].message == ask(client).choices[0].message
    said = [{"role": "developer", "content": "Be brief."}, *MESSAGES]
    assert ask(client, messages=said).usage.prompt_tokens > ask(client).usage.prompt_tokens


def test_a_wrong_key_and_no_key_are_refused(base_url):
    for key in ("sk-wrong", "schlüssel"):
        with openai.OpenAI(base_url=f"{base_url}/v1", api_key=key, max_retries=0) as stranger:
            try:
                with pytest.raises(openai.AuthenticationError) as caught:
                    ask(stranger)
            except UnicodeEncodeError:  # the client itself refuses to send it
                continue
            assert caught.value.code == "invalid_api_key"
            assert "sk-wrong" not in str(caught.value.body)


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="gpt-4")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": {"4096": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
        ({"extra_body": {"structured_outputs": {}}}, "structured_outputs"),
        ({"extra_body": {"structured_outputs": {"regex": "a", "choice": ["b"]}}}, "structured_outputs"),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "structured_outputs"),
        ({"extra_body": {"grammar": "root ::= ("}}, "grammar"),
        ({"extra_body": {"json_schema": {"type": "strin"}}}, "json_schema"),
        ({"extra_body": {"grammar": 'root ::= "a"', "json_schema": {"type": "object"}}}, "grammar"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"extra_body": {"beam_width": 4}}, "beam_width"),
        ({"temperature": 3.0}, "temperature"),
        ({"top_p": -1.0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 99}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "warm"}, "temperature"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["a"] * 20}, "stop"),
        ({"stop": ""}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages",
        ),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_a_parameter_that_is_wrong_or_not_supported_is_refused_by_name(client, changes, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **changes)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


@pytest.mark.parametrize("param", ["suffix", "best_of"])
def test_completions_refuse_what_they_do_not_do(client, param):
    value = {"suffix": "end", "best_of": 3}[param]
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="scripture", prompt="x", **{param: value})
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


def test_more_texts_than_one_request_may_ask_for_are_refused(client):
    with pytest.raises(openai.BadRequestError, match="128") as caught:
        client.completions.create(model="scripture", prompt=["x"] * 40, n=4)
    assert caught.value.param == "n"


def test_parameters_that_mean_nothing_or_nothing_here_are_taken(client):
    neutral = {
        "logit_bias": {},
        "response_format": {"type": "text"},
        "logprobs": False,
        "user": "u",
        "store": False,
    }
    assert ask(client, **neutral, metadata={"a": "b"}).choices[0].message == ask(client).choices[0].message


def test_a_prompt_that_is_too_long_names_the_limit(client):
    with pytest.raises(openai.BadRequestError, match="1024") as caught:
        client.completions.create(model="scripture", prompt="word " * 3000, max_tokens=5)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages=[{"role": "user", "content": "a" * 7_000_000}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        list(ask(client, max_tokens=5000, stream=True))
    assert caught.value.code == "context_length_exceeded"


def test_a_model_that_writes_does_not_embed(client):
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="scripture", input="x")
