"""A tokenizer there and back: the same tokens for every text, or a refusal that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tritium.errors import ValidationError
from tritium.formats.gguf_tokenizer import SPLITS, numbered_vocabulary, tokenizer_metadata
from tritium.formats.gguf_vocabulary import end_tokens, tokenizer_files

FILE = Path("model.gguf")
TEXT = ["In the beginning was the word, and the word's 1234 letters\n\n  were  few.", "Größe ☃ and 42!"] * 4
PATTERNS = {name: pattern for pattern, name in SPLITS.items()}


def trained(split: str) -> dict[str, Any]:
    """A byte-level BPE tokenizer, trained on a few words, that splits text in this way."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=split == "llama-bpe"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split == "gpt-2")
    if split == "gpt-2":
        tokenizer.pre_tokenizer = level
    else:
        pattern = pre_tokenizers.Split(tokenizers.Regex(PATTERNS[split]), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pattern, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<begin>", "<end>"],
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_tokens([tokenizers.AddedToken("<tool>", special=False, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<begin> $A", pair="<begin> $A <begin>:1 $B:1", special_tokens=[("<begin>", 0)]
    )
    return json.loads(tokenizer.to_str())


def metadata_of(definition: dict[str, Any], **more: Any) -> dict[str, Any]:
    size = 1 + max(token["id"] for token in definition["added_tokens"])
    ids = {"bos_token_id": 0, "eos_token_id": 1, "add_bos_token": True}
    given = {f"tokenizer.ggml.{key}": value for key, value in (ids | more).items()}
    return tokenizer_metadata(definition, vocab_size=size + 3) | given


@pytest.fixture(scope="module", params=["gpt-2", "llama-bpe", "qwen2"])
def both(request) -> tuple[str, tokenizers.Tokenizer, tokenizers.Tokenizer, dict[str, Any]]:
    definition = trained(request.param)
    metadata = metadata_of(definition)
    files = tokenizer_files(metadata, file=FILE)
    rebuilt = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    return request.param, tokenizers.Tokenizer.from_str(json.dumps(definition)), rebuilt, metadata


@settings(max_examples=60)
@given(
    text=st.lists(
        st.sampled_from([*TEXT[:2], "<tool>", "<end>", " 12345 ", "it's", "\n \n", "☃é", "<b"])
    ).map("".join)
)
def test_every_text_gives_the_same_tokens(both, text):
    _, original, rebuilt, _ = both
    ids = original.encode(text).ids
    assert rebuilt.encode(text).ids == ids
    assert rebuilt.decode(ids) == original.decode(ids)
    assert rebuilt.encode(text, add_special_tokens=False).ids == ids[1:]


def test_what_is_rebuilt_is_described_by_the_same_metadata(both):
    split, _, rebuilt, metadata = both
    again = tokenizer_metadata(
        json.loads(rebuilt.to_str()), vocab_size=len(metadata["tokenizer.ggml.tokens"])
    )
    assert again == {key: metadata[key] for key in again}
    assert again["tokenizer.ggml.pre"] == split


def test_the_settings_name_the_special_tokens_and_the_template():
    metadata = metadata_of(trained("gpt-2")) | {"tokenizer.chat_template": "{{ messages }}"}
    files = tokenizer_files(metadata, file=FILE)
    assert json.loads(files["tokenizer_config.json"]) == {
        "bos_token": "<begin>", "eos_token": "<end>", "chat_template": "{{ messages }}",
    }  # fmt: skip


def test_who_does_not_say_whether_a_first_token_comes_means_what_llama_cpp_does():
    for split, expected in (("gpt-2", None), ("llama-bpe", "TemplateProcessing")):
        metadata = metadata_of(trained(split))
        del metadata["tokenizer.ggml.add_bos_token"]
        found = json.loads(tokenizer_files(metadata, file=FILE)["tokenizer.json"])["post_processor"]
        assert (found and found["type"]) == expected


def test_a_last_token_comes_where_it_is_asked_for():
    files = tokenizer_files(metadata_of(trained("gpt-2"), add_eos_token=True), file=FILE)
    rebuilt = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    assert [rebuilt.encode("word").ids[place] for place in (0, -1)] == [0, 1]


def test_a_vocabulary_of_llama_3_tells_the_split_that_its_file_does_not_name():
    tokens = [f"t{index}" for index in range(128256)]
    tokens[0], tokens[1], tokens[2] = "!", "a", "!a"
    tokens[128000], tokens[128009] = "<|begin_of_text|>", "<|eot_id|>"
    metadata = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": ["! a"],
        "tokenizer.ggml.scores": [0.0] * 128256, "tokenizer.ggml.bos_token_id": 128000,
    }  # fmt: skip
    definition = json.loads(tokenizer_files(metadata, file=FILE)["tokenizer.json"])
    assert definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] == PATTERNS["llama-bpe"]
    assert definition["model"]["ignore_merges"] is True


def test_a_model_without_a_tokenizer_stays_one():
    assert tokenizer_files(numbered_vocabulary(300), file=FILE) == {}
    assert tokenizer_files({}, file=FILE) == {}


def test_a_tokenizer_without_merges_comes_back_without_them():
    definition = trained("gpt-2")
    definition["model"]["vocab"] = {t: i for t, i in definition["model"]["vocab"].items() if len(t) == 1}
    definition["model"]["merges"] = []
    files = tokenizer_files(metadata_of(definition), file=FILE)
    assert json.loads(files["tokenizer.json"])["model"]["merges"] == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "bert"}, "'bert' cannot be rebuilt exactly"),
        ({"model": "llama"}, "tokens, scores and token_type"),
        ({"model": None}, "cannot be rebuilt exactly"),
        ({"pre": "deepseek-llm"}, "'deepseek-llm' of the tokenizer is not known"),
        ({"pre": ["llama-bpe"]}, "is not known"),
        ({"pre": None}, "does not say how text is split"),
        ({"tokens": None}, "lists of one length"),
        ({"tokens": ["a"]}, "lists of one length"),
        ({"token_type": [1.0]}, "lists of one length"),
        ({"token_type": lambda kinds: [6, *kinds[1:]]}, "has the type 6"),
        ({"tokens": lambda tokens: [tokens[2], *tokens[1:]]}, "has two ids, 0 and 2"),
        ({"merges": None}, "no list of merges"),
        ({"merges": ["a"]}, "does not join two tokens"),
        ({"merges": ["☃ a"]}, "does not join two tokens"),
        ({"merges": ["a \u0001"]}, "does not join two tokens"),
        ({"bos_token_id": 10**6}, "is no token"),
        ({"bos_token_id": None}, "first token is asked for"),
        ({"add_bos_token": "yes"}, "first token is asked for"),
        ({"add_eos_token": "yes"}, "last token is asked for"),
        ({"add_eos_token": True, "eos_token_id": None}, "last token is asked for"),
        ({"add_space_prefix": True}, "add_space_prefix"),
        ({"precompiled_charsmap": [1]}, "precompiled_charsmap"),
    ],
)  # fmt: skip
def test_what_cannot_be_rebuilt_exactly_is_refused_by_name(changes, reason):
    metadata = metadata_of(trained("gpt-2"))
    for key, value in changes.items():
        full = f"tokenizer.ggml.{key}"
        metadata[full] = value(metadata[full]) if callable(value) else value
        if value is None:
            del metadata[full]
    with pytest.raises(ValidationError, match=reason):
        tokenizer_files(metadata, file=FILE)


def test_a_template_that_is_no_text_is_refused():
    metadata = metadata_of(trained("gpt-2")) | {"tokenizer.chat_template": ["a"]}
    with pytest.raises(ValidationError, match="chat_template must be a text"):
        tokenizer_files(metadata, file=FILE)


def test_the_end_of_a_turn_ends_a_text_too():
    assert end_tokens({"tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.eot_token_id": 2}) == [1, 2]
    assert end_tokens({"tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.eot_token_id": 1}) == [1]
    assert end_tokens({}) == []
