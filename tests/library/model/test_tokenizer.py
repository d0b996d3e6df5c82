"""Tokenizers: text there and back, streams that never break a character, and the wrong one found out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.model.config import parse_config
from tritium.model.pretrained import load_model
from tritium.model.tokenizer import IncrementalDecoder, Tokenizer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def tokenizer(scripture_llama: Path) -> Tokenizer:
    return Tokenizer(scripture_llama)


@pytest.fixture(scope="module")
def byte_fallback(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer of the sentencepiece kind: words with a mark for the space, other characters as bytes."""
    directory = tmp_path_factory.mktemp("fallback")
    words = ["<unk>", "▁in", "▁the", "▁be", "gin", "ning", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {word: index for index, word in enumerate(words)}
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    made.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    made.save(str(directory / "tokenizer.json"))
    return Tokenizer(directory)


def _stream(decoder: IncrementalDecoder, ids: list[int]) -> list[str]:
    return [*(decoder.push(token) for token in ids), decoder.flush()]


@given(st.text(max_size=60))
@settings(deadline=None)
def test_text_survives_encoding_and_decoding(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
@settings(deadline=None)
def test_a_stream_of_text_is_the_text_and_every_piece_is_whole(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special=False)
    pieces = _stream(tokenizer.incremental_decoder(), ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert text.count("\ufffd") == "".join(pieces).count("\ufffd")


@given(st.lists(st.integers(0, 4095), max_size=120))
@settings(deadline=None)
def test_a_stream_of_any_tokens_joins_to_their_text(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(_stream(tokenizer.incremental_decoder(), ids)) == tokenizer.decode(ids)


def test_an_emoji_in_four_tokens_arrives_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("x😀y", add_special=False)
    pieces = [piece for piece in _stream(tokenizer.incremental_decoder(), ids) if piece]
    assert len(ids) > len(pieces)
    assert pieces == ["x", "😀", "y"]


def test_bytes_that_never_become_text_are_let_go_in_the_end(tokenizer: Tokenizer) -> None:
    (lonely,) = {tokenizer.encode("é", add_special=False)[-1]} - {tokenizer.encode("x")[0]}
    ids = [lonely] * 300
    decoder = tokenizer.incremental_decoder()
    pieces = [decoder.push(token) for token in ids]
    assert any(pieces[:100])
    assert "".join([*pieces, decoder.flush()]) == tokenizer.decode(ids)


def test_words_keep_their_spaces_in_a_stream(byte_fallback: Tokenizer) -> None:
    word = {name: index for index, name in enumerate(["<unk>", "▁in", "▁the", "▁be", "gin", "ning"])}
    ids = [word["▁in"], word["▁the"], word["▁be"], word["gin"], word["ning"]]
    euro = [6 + byte for byte in "€".encode()]
    assert _stream(byte_fallback.incremental_decoder(), [*ids, *euro, word["▁the"]]) == [
        *("in", " the", " be", "gin", "ning", "", "", "€", " the", "")
    ]


@given(st.text())
def test_the_spellings_of_its_tokens_joined_are_the_bytes_of_a_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special=False)
    spelled = b"".join(tokenizer.spelling.bytes_of(token) for token in ids)
    assert spelled.decode() == tokenizer.decode(ids)


def test_a_special_token_spells_nothing_and_has_a_name(tokenizer: Tokenizer) -> None:
    (end,) = tokenizer.encode("<|end|>", add_special=False)
    assert tokenizer.spelling.is_special(end)
    assert (tokenizer.spelling.bytes_of(end), tokenizer.spelling.token(end)) == (b"", "<|end|>")
    assert tokenizer.spelling.token(10**6) == ""


def test_bytes_and_marks_for_spaces_are_spelled_out(byte_fallback: Tokenizer) -> None:
    ids = [
        byte_fallback._tokenizer.token_to_id(token) for token in ("▁the", "<0xE2>", "<0x82>", "<0xAC>", "gin")
    ]
    assert [byte_fallback.spelling.bytes_of(token) for token in ids] == [
        b" the", b"\xe2", b"\x82", b"\xac", b"gin"
    ]  # fmt: skip


def test_a_text_that_is_no_unicode_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValidationError, match="surrogate"):
        tokenizer.encode("a\ud800b")


def test_a_file_that_asks_for_cutting_and_padding_gets_neither(scripture_llama: Path, tmp_path: Path) -> None:
    made = tokenizers.Tokenizer.from_file(str(scripture_llama / "tokenizer.json"))
    made.enable_truncation(4)
    made.enable_padding(length=64)
    made.save(str(tmp_path / "tokenizer.json"))
    text = "In the beginning God created the heaven and the earth."
    assert Tokenizer(tmp_path).encode(text) == Tokenizer(scripture_llama).encode(text)


def test_eos_ids_come_from_the_generation_config_first(scripture_llama: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(scripture_llama / name, tmp_path / name)
    assert Tokenizer(tmp_path).eos_token_ids == (0,)  # the tokenizer's own eos_token
    (tmp_path / "config.json").write_text('{"eos_token_id": 5}')
    assert Tokenizer(tmp_path).eos_token_ids == (5,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert Tokenizer(tmp_path).eos_token_ids == (7, 9)


def test_the_tokenizer_of_another_model_is_refused(tokenizer: Tokenizer, scripture_llama: Path) -> None:
    config = parse_config(json.loads((scripture_llama / "config.json").read_text()))
    tokenizer.validate_against(config)
    with pytest.raises(ValidationError, match="4096 tokens and the model 4000"):
        tokenizer.validate_against(replace(config, vocab_size=4000))
    with pytest.raises(ValidationError, match="special token 9000"):
        tokenizer.validate_against(replace(config, vocab_size=10000, eos_token_ids=(9000,)))


def test_a_model_whose_tokenizer_is_too_large_is_refused_at_load(
    scripture_llama: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(scripture_llama, directory)
    made = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    made.add_tokens(["one token too many"])
    made.save(str(directory / "tokenizer.json"))
    with pytest.raises(ValidationError, match="not this model's tokenizer"):
        load_model(directory)


def test_a_missing_tokenizer_is_named(scripture_llama: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(scripture_llama / name, tmp_path / name)
    loaded = load_model(tmp_path)
    with pytest.raises(ValidationError, match=r"no tokenizer\.json: copy it"):
        _ = loaded.tokenizer


TEXT_FILES = [
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
    *("generation_config.json", "config.json"),
]


@pytest.mark.parametrize("name", TEXT_FILES)
def test_a_link_out_of_the_checkpoint_is_not_followed(
    name: str, scripture_llama: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    shutil.copy(scripture_llama / "tokenizer.json", directory)
    (tmp_path / "outside").write_text("{}")
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ValidationError, match="leads out of the checkpoint"):
        Tokenizer(directory)


@pytest.mark.parametrize("name", TEXT_FILES)
def test_a_file_of_any_size_is_not_read(name: str, scripture_llama: Path, tmp_path: Path) -> None:
    shutil.copy(scripture_llama / "tokenizer.json", tmp_path)
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk, and would take a terabyte of memory
    with pytest.raises(ValidationError, match="more than the limit") as caught:
        Tokenizer(tmp_path)
    assert caught.value.details["file"] == name


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"model": {"type": "Unknown"}}'])
def test_a_broken_tokenizer_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValidationError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer(tmp_path)
