"""A text that cannot calibrate is refused with its numbers; one that hardly can is told of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tokenizers

from tritium.errors import ValidationError
from tritium.model.tokenizer import Tokenizer
from tritium.quantize import QuantizationConfig, plan_quantization, quantize_model
from tritium.quantize.suitability import PIECE_CHARACTERS, PIECES, TextFit, check_calibration

if TYPE_CHECKING:
    from pathlib import Path

GREEK = "ἐν ἀρχῇ ἦν ὁ λόγος κ\u03b1ὶ ὁ λόγος ἦν πρὸς τὸν θεόν "


@pytest.fixture
def tokenizer(tiny_llama: Path) -> Tokenizer:
    return Tokenizer(tiny_llama)


@pytest.fixture
def words(tmp_path: Path) -> Tokenizer:
    """A tokenizer of whole words that knows three of them."""
    model = tokenizers.models.WordLevel({"[UNK]": 0, "in": 1, "the": 2, "beginning": 3}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer(tmp_path)


@pytest.fixture
def fallback(tmp_path: Path) -> Tokenizer:
    """A tokenizer that spells what it does not know in bytes."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": 1 + byte for byte in range(256)} | {"a": 257}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    made.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer(tmp_path)


def test_the_fit_of_a_long_text_is_estimated_from_pieces_of_all_of_it(tokenizer, calibration_text):
    text = calibration_text * (3 * PIECES * PIECE_CHARACTERS // len(calibration_text) + 1)
    fit = TextFit.of(text, tokenizer)
    tokens = len(tokenizer.encode(text, add_special=False))
    assert fit.tokens == pytest.approx(tokens, rel=0.03)
    assert fit.characters_per_token == pytest.approx(len(text) / tokens, rel=0.03)
    assert (fit.unknown, fit.bytes) == (0, 0)


def test_shares_of_unknown_and_of_byte_tokens_are_counted(words, fallback):
    assert TextFit.of("in the end", words).unknown == pytest.approx(1 / 3)
    assert TextFit.of("a\u03b1", fallback).bytes == pytest.approx(2 / 3)


def test_a_text_of_which_the_tokenizer_knows_nothing_is_refused(words):
    with pytest.raises(ValidationError, match="knows nothing of the calibration text: 100%"):
        check_calibration(QuantizationConfig(calibration_text=GREEK), words, widest=1)


def test_a_text_of_too_few_tokens_to_judge_by_is_refused_before_any_work(tiny_llama):
    with pytest.raises(ValidationError, match=r"too short: it has . tokens, and 8 are needed") as refused:
        plan_quantization(tiny_llama, QuantizationConfig(calibration_text="In the beginning."))
    assert refused.value.details["field"] == "calibration_text"


@pytest.mark.parametrize(
    ("text", "widest", "told"),
    [
        ("in the beginning " * 8, 400, "24 calibration tokens are few for layers of 400 inputs: 100 or more"),
        ("in the first year " * 8, 1, "50% of the calibration text's tokens are unknown"),
    ],
)
def test_a_doubtful_text_is_told_of_with_its_numbers(words, text, widest, told):
    (warning,) = check_calibration(QuantizationConfig(calibration_text=text), words, widest=widest)
    assert told in warning


def test_a_script_that_is_spelled_in_bytes_is_told_of(tokenizer, fallback, held_out_text):
    config = QuantizationConfig(calibration_text=GREEK * 20, validation_text=held_out_text)
    warnings = check_calibration(config, tokenizer, widest=1)
    assert "byte by byte" in warnings[0]
    assert "are unlike" in warnings[1]
    (warning,) = check_calibration(
        QuantizationConfig(calibration_text="aaa\u03b1\u03b2" * 9), fallback, widest=1
    )
    assert "byte by byte" in warning


def test_a_fitting_text_raises_no_doubt(tokenizer, calibration_text, held_out_text):
    config = QuantizationConfig(calibration_text=calibration_text, validation_text=held_out_text)
    assert check_calibration(config, tokenizer, widest=4096) == ()


def test_the_model_keeps_the_warnings_and_one_without_has_no_entry(tiny_llama, calibration_text, tmp_path):
    greek = QuantizationConfig(calibration_text=GREEK * 4, calibration_tokens=32, window=32)
    model = quantize_model(tiny_llama, greek, out=tmp_path / "greek")
    assert "byte by byte" in model.warnings[0]
    plain = QuantizationConfig(calibration_text=calibration_text[:2000], calibration_tokens=64, window=32)
    assert quantize_model(tiny_llama, plain, out=tmp_path / "plain").warnings == ()
    manifest = json.loads((tmp_path / "plain" / "tritium.json").read_text())
    assert "warnings" not in manifest["quantization"]
    assert np.isfinite(model.metrics["mean_weight_error"])
