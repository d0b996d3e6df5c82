"""Biases and log-probabilities, by the official client."""

from __future__ import annotations

import math

import pytest

MESSAGES = [{"role": "user", "content": "In the beginning"}]


def chat(client, **changes):
    settings = {"model": "scripture", "messages": MESSAGES, "max_tokens": 12, "temperature": 0} | changes
    return client.chat.completions.create(**settings)


def complete(client, **changes):
    settings = {"model": "scripture", "prompt": "And God said", "max_tokens": 12, "temperature": 0} | changes
    return client.completions.create(**settings)


def joined_bytes(entries) -> str:
    return bytes(byte for entry in entries for byte in entry.bytes).decode()


def test_a_chat_tells_how_probable_its_tokens_were(client):
    choice = chat(client, logprobs=True, top_logprobs=5).choices[0]
    entries = choice.logprobs.content
    assert len(entries) == 12
    assert joined_bytes(entries) == choice.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 5
        # Greedy: the chosen one is the most likely.
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob)
        probabilities = [math.exp(other.logprob) for other in entry.top_logprobs]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1
    assert choice.message == chat(client).choices[0].message
    assert chat(client).choices[0].logprobs is None
    assert all(not entry.top_logprobs for entry in chat(client, logprobs=True).choices[0].logprobs.content)


@pytest.mark.parametrize("changes", [{}, {"stop": ["God", " a"]}, {"n": 2, "temperature": 1.0, "seed": 3}])
def test_a_stream_brings_the_same_log_probabilities_with_their_text(client, changes):
    whole = chat(client, logprobs=True, top_logprobs=2, **changes)
    chunks = list(chat(client, logprobs=True, top_logprobs=2, stream=True, **changes))
    for expected in whole.choices:
        found = []
        for chunk in chunks:
            for choice in chunk.choices:
                if choice.index == expected.index and choice.logprobs:
                    found += choice.logprobs.content
        assert [entry.model_dump() for entry in found] == [
            entry.model_dump() for entry in expected.logprobs.content
        ]


def test_the_client_librarys_own_stream_helper_gathers_them(client):
    stop = chat(client, max_tokens=30).choices[0].message.content[10:17]
    settings = {"model": "scripture", "messages": MESSAGES, "temperature": 0, "stop": stop}
    with client.chat.completions.stream(**settings, logprobs=True, top_logprobs=1) as stream:
        events = [event for event in stream if event.type == "logprobs.content.delta"]
        gathered = stream.get_final_completion().choices[0].logprobs.content
    assert gathered == [entry for event in events for entry in event.content]
    assert len(gathered) == len(chat(client, stop=stop, logprobs=True).choices[0].logprobs.content)


def test_a_completion_tells_them_in_columns(client):
    choice = complete(client, logprobs=3).choices[0]
    columns = choice.logprobs
    assert "".join(columns.tokens) == choice.text
    assert len(columns.token_logprobs) == len(columns.top_logprobs) == len(columns.text_offset) == 12
    for token, offset in zip(columns.tokens, columns.text_offset, strict=True):
        assert choice.text[offset:].startswith(token)
    for token, logprob, best in zip(
        columns.tokens, columns.token_logprobs, columns.top_logprobs, strict=True
    ):
        assert best[token] == logprob == max(best.values())
        assert len(best) == 3
    assert complete(client, logprobs=0).choices[0].logprobs.token_logprobs == columns.token_logprobs
    chunks = list(complete(client, logprobs=3, stream=True))
    parts = [each.choices[0].logprobs for each in chunks if each.choices and each.choices[0].logprobs]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [item for part in parts for item in getattr(part, name)] == getattr(columns, name)


@pytest.mark.parametrize("prompt", ["And God said", [1826, 263, 2194], ["And God said", "q"]])
def test_an_echo_comes_with_the_prompts_own_columns(client, prompt, scripture_tokenizer):
    plain = complete(client, prompt=prompt, logprobs=1)
    echoed = complete(client, prompt=prompt, logprobs=1, echo=True)
    assert echoed.usage == plain.usage.model_copy(
        update={"prompt_tokens_details": echoed.usage.prompt_tokens_details}
    )
    prompts = prompt if isinstance(prompt[0], str) and isinstance(prompt, list) else [prompt]
    for before, after, text in zip(plain.choices, echoed.choices, prompts, strict=True):
        text = text if isinstance(text, str) else scripture_tokenizer.decode(text)  # noqa: PLW2901
        assert after.text == text + before.text
        columns = after.logprobs
        assert "".join(columns.tokens) == after.text
        assert (columns.token_logprobs[0], columns.top_logprobs[0], columns.text_offset[0]) == (None, None, 0)
        assert None not in columns.token_logprobs[1:]
        assert columns.tokens[-12:] == before.logprobs.tokens
        for token, offset in zip(columns.tokens, columns.text_offset, strict=True):
            assert after.text[offset:].startswith(token)
    chunks = list(complete(client, prompt=prompt, logprobs=1, echo=True, stream=True))
    for choice in echoed.choices:
        pieces = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert "".join(piece.text for piece in pieces) == choice.text
        streamed = [offset for piece in pieces if piece.logprobs for offset in piece.logprobs.text_offset]
        assert streamed == choice.logprobs.text_offset


def test_half_characters_are_told_as_bytes(client):
    text = "é 😀 日"
    form = {"structured_outputs": {"choice": [text]}}
    chosen = chat(client, logprobs=True, max_tokens=40, extra_body=form).choices[0]
    assert joined_bytes(chosen.logprobs.content) == chosen.message.content == text
    halves = [entry for entry in chosen.logprobs.content if entry.token.startswith("\\x")]
    assert halves
    for entry in halves:
        assert entry.token == "".join(f"\\x{byte:02x}" for byte in entry.bytes)
    columns = complete(client, logprobs=0, max_tokens=40, extra_body=form).choices[0].logprobs
    assert any(token.startswith("bytes:\\x") for token in columns.tokens)
    for token, offset in zip(columns.tokens, columns.text_offset, strict=True):
        assert token.startswith("bytes:") or text[offset:].startswith(token)
    assert columns.text_offset == sorted(columns.text_offset)
    assert max(columns.text_offset) == len(text) - 1


def test_a_bias_bans_and_forces_tokens(client, scripture_tokenizer):
    free = chat(client).choices[0].message.content
    (first, *_) = scripture_tokenizer.encode(free, add_special=False)
    assert first not in scripture_tokenizer.encode(
        chat(client, logit_bias={str(first): -100}).choices[0].message.content, add_special=False
    )
    (word,) = scripture_tokenizer.encode(" Moses", add_special=False)
    for temperature in (0, 1.5):
        forced = chat(client, logit_bias={str(word): 100}, temperature=temperature, max_tokens=3)
        assert forced.choices[0].message.content == " Moses" * 3
    chunks = list(complete(client, logit_bias={str(word): 100}, max_tokens=3, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == " Moses" * 3
