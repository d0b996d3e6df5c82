"""A directory whose tokenizer is a tokenizer.model: it runs, is quantized and exported like any other."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import tokenizers

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.model.companions import TOKENIZER_FILE, with_tokenizer
from tritium.model.export_gguf import export_gguf
from tritium.model.gguf_model import open_model
from tritium.model.pretrained import load_model
from tritium.model.tokenizer import Tokenizer
from tritium.quantize import QuantizationConfig, quantize_model

sentencepiece = pytest.importorskip("sentencepiece")
TEXTS = ["In the beginning", " two  spaces", "naïve café 12", "", "the earth\nwas <without> form ☃"]


@pytest.fixture(scope="module")
def pieces(held_out_text) -> bytes:
    """A tokenizer.model of 4,096 pieces, as many as the trained model has tokens."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(held_out_text.splitlines()), model_writer=model, model_type="bpe",
        vocab_size=4080, hard_vocab_limit=False, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2, num_threads=1,
    )  # fmt: skip
    return model.getvalue()


@pytest.fixture
def directory(pieces, scripture_llama, tmp_path):
    """The trained model with a tokenizer.model in place of its tokenizer.json."""
    target = tmp_path / "source"
    shutil.copytree(scripture_llama, target)
    (target / TOKENIZER_FILE).unlink()
    (target / "tokenizer_config.json").unlink()
    (target / "tokenizer.model").write_bytes(pieces)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"bos_token_id": 1, "eos_token_id": 2}))
    (target / "generation_config.json").unlink(missing_ok=True)
    return target


def test_text_gets_the_tokens_of_the_library_after_the_first_token(directory, pieces):
    library = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    with open_model(directory) as checkpoint:
        tokenizer = Tokenizer(checkpoint.path, files=checkpoint.embedded)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (library.bos_id(), (library.eos_id(),))
    for text in TEXTS:
        assert tokenizer.encode(text) == [library.bos_id(), *library.encode(text)]
        assert tokenizer.decode(tokenizer.encode(text)) == library.decode(library.encode(text))


def test_what_is_quantized_has_a_tokenizer_json_and_leaves_as_gguf(directory, tmp_path, held_out_text):
    out = tmp_path / "out"
    quantize_model(directory, QuantizationConfig(group_size=256, max_planes=1), out=out)
    assert (out / TOKENIZER_FILE).is_file()
    ids = load_model(directory).tokenizer.encode(held_out_text[:2000])
    assert load_model(out).tokenizer.encode(held_out_text[:2000]) == ids
    export_gguf(out, tmp_path / "model.gguf", ternary_type="tq2_0", embedding_type="f32")
    assert load_model(tmp_path / "model.gguf").tokenizer.encode(held_out_text[:2000]) == ids


def test_a_tokenizer_json_goes_before_a_tokenizer_model(scripture_llama, tmp_path):
    target = tmp_path / "both"
    shutil.copytree(scripture_llama, target)
    (target / "tokenizer.model").write_bytes(b"not read")
    with open_checkpoint(target) as checkpoint:
        assert with_tokenizer(checkpoint) is checkpoint


def tokenizer_of(directory):
    with open_checkpoint(directory) as checkpoint:
        files = with_tokenizer(checkpoint).embedded
    return tokenizers.Tokenizer.from_str(files[TOKENIZER_FILE].decode())


@pytest.mark.parametrize("is_described", [False, True])
def test_tokens_added_after_training_are_found_in_a_text(directory, pieces, is_described):
    size = sentencepiece.SentencePieceProcessor(model_proto=pieces).vocab_size()
    if is_described:
        tokens = {
            size: {"content": "<pad>", "special": True},
            size + 1: {"content": "<tool>", "rstrip": True},
        }
        settings = {"added_tokens_decoder": {1: {"content": "<s>"}} | tokens, "add_bos_token": False}
    else:
        settings = {"pad_token": "<pad>", "add_eos_token": True, "add_bos_token": False}
        (directory / "added_tokens.json").write_text(json.dumps({"<tool>": size + 1, "<pad>": size}))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = tokenizer_of(directory)
    ids = tokenizer.encode("a<tool><pad>").ids
    assert ids[-2:] == [size + 1, size] if is_described else ids[-3:] == [size + 1, size, 2]
    assert tokenizer.decode([size, size + 1]) == "<tool>"
    assert ids[0] != 1


@pytest.mark.parametrize(
    ("added", "reason"),
    [({"<tool>": 5000}, "leaves out ids before 5000"), ({"<tool>": 7}, "has the id of the piece")],
)
def test_added_tokens_that_do_not_fit_are_refused(directory, added, reason):
    (directory / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(ValidationError, match=reason):
        open_model(directory)
