"""Counting tokens before they cost anything."""

from __future__ import annotations

import httpx2
import pytest

MESSAGES = [{"role": "user", "content": "In the beginning"}]


@pytest.fixture
def count(client):
    """Ask for the tokens of a prompt."""

    def ask(**body) -> dict:
        return client.post("/tokenize", body={"model": "scripture", **body}, cast_to=httpx2.Response).json()

    return ask


def test_the_count_is_what_a_completion_or_a_chat_reads(client, count, scripture_tokenizer):
    found = count(prompt="And God said unto Moses")
    assert found["tokens"] == scripture_tokenizer.encode("And God said unto Moses")
    assert found["count"] == len(found["tokens"])
    assert (found["max_model_len"], found["token_strs"]) == (1024, None)
    used = client.completions.create(model="scripture", prompt="And God said unto Moses", max_tokens=1).usage
    assert used.prompt_tokens == found["count"]
    used = client.chat.completions.create(model="scripture", messages=MESSAGES, max_tokens=1).usage
    assert used.prompt_tokens == count(messages=MESSAGES)["count"]


def test_tokens_are_written_out_if_asked_for(count):
    found = count(prompt="God said", return_token_strs=True)
    assert len(found["token_strs"]) == found["count"]
    assert "".join(found["token_strs"]).replace("\u0120", " ").strip() == "God said"


def test_a_prompt_beyond_the_context_can_still_be_counted(count):
    assert count(prompt="word " * 3000)["count"] > 1024


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"prompt": "a", "messages": MESSAGES}, 400, "prompt"),
        ({}, 400, "prompt"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": "a", "model": "gpt-4"}, 404, "model"),
        ({"prompt": "a", "max_tokens": 5}, 400, "max_tokens"),
        ({"messages": []}, 400, "messages"),
    ],
)
def test_what_cannot_be_counted_is_refused(base_url, body, status, param):
    headers = {"authorization": "Bearer sk-local-test"}
    answer = httpx2.post(f"{base_url}/v1/tokenize", json={"model": "scripture", **body}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_strangers_count_nothing(base_url):
    answer = httpx2.post(f"{base_url}/v1/tokenize", json={"model": "scripture", "prompt": "a"})
    assert answer.status_code == 401
