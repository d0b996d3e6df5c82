from __future__ import annotations

import pytest

from tritium.engine.prompt import ChatMessage, encode_prompt
from tritium.engine.request import ContextLengthExceededError
from tritium.errors import ValidationError


def test_each_kind_of_prompt_becomes_the_tokens_the_model_reads(scripture):
    tokenizer = scripture.tokenizer
    ids = tuple(tokenizer.encode("In the beginning"))
    assert encode_prompt(tokenizer, "In the beginning") == encode_prompt(tokenizer, ids) == ids
    text = tokenizer.apply_chat_template([{"role": "user", "content": "In the beginning"}])
    chat = encode_prompt(tokenizer, (ChatMessage("user", "In the beginning"),))
    assert chat == tuple(tokenizer.encode(text, add_special=False))


@pytest.mark.parametrize("prompt", ["", (), (-1,), (4096,), (2**70,), ("x",), (1.0,)])
def test_what_is_no_prompt_is_refused_by_the_name_of_its_field(scripture, prompt):
    with pytest.raises(ValidationError) as caught:
        encode_prompt(scripture.tokenizer, prompt, param="input")
    assert caught.value.details["param"] == "input"


def test_a_text_that_is_far_too_long_is_refused_before_it_is_encoded(scripture, monkeypatch):
    tokenizer = scripture.tokenizer
    monkeypatch.setattr(tokenizer, "encode", lambda *_, **__: pytest.fail("it was encoded"))
    for prompt in ("a" * 300_000, (ChatMessage("user", "a" * 300_000),)):
        with pytest.raises(ContextLengthExceededError) as caught:
            encode_prompt(tokenizer, prompt, context_limit=1024)
        assert caught.value.details["limit"] == 1024


def test_half_a_surrogate_pair_is_refused(scripture):
    with pytest.raises(ValidationError, match="Unicode"):
        encode_prompt(scripture.tokenizer, "\ud800")
