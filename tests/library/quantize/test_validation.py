"""Every figure of a report comes from running both models; what was not run is None and says why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.model.pretrained import QuantizedModel, load_model
from tritium.quantize import QuantizationConfig, evaluate, quantize_model
from tritium.quantize.estimate import mean_by_window, mean_of_samples, perplexity, rank_correlation
from tritium.quantize.text import documents, passages, read_text, spread, token_windows

if TYPE_CHECKING:
    from pathlib import Path


def test_the_perplexity_of_the_dense_model_is_the_published_one(scripture_llama, held_out_text):
    # The model card gives 37.4 on the whole text; sixteen windows of it must agree within their own interval.
    found = evaluate(scripture_llama, text=held_out_text, max_tokens=16 * 256)
    assert found.windows == 16
    assert found.tokens == 16 * 255
    assert found.perplexity.low < 37.36 < found.perplexity.high
    assert 0 < found.top1_accuracy.value < 1


def test_perplexity_is_exp_of_the_mean_loss_of_transformers_definition(tiny_llama, held_out_text):
    text = held_out_text[:600]
    loaded = load_model(tiny_llama)
    ids = np.array([0, *loaded.tokenizer.encode(text, add_special=False)], dtype=np.int32)[:64]
    logits = loaded.generator.forward_full(ids).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    expected = math.exp(-log_probabilities[np.arange(63), ids[1:]].mean())
    found = evaluate(tiny_llama, text=text, window=64, max_tokens=64)
    assert found.windows == 1
    assert found.perplexity.value == pytest.approx(expected, rel=1e-5)
    assert found.perplexity.low is None


def test_threads_do_not_change_a_bit_of_the_evaluation(tiny_llama, held_out_text):
    figures = {
        evaluate(tiny_llama, text=held_out_text[:2000], threads=threads).perplexity.value
        for threads in (1, 2, 3)
    }
    assert len(figures) == 1


def test_the_report_is_what_evaluating_both_models_gives(scripture_llama, held_out_text, tmp_path):
    text = held_out_text[:6000]
    config = QuantizationConfig(validation_text=text)
    report = quantize_model(scripture_llama, config, out=tmp_path / "out").validation_report
    source, result = evaluate(scripture_llama, text=text), evaluate(tmp_path / "out", text=text)
    assert report["source_perplexity"]["value"] == source.perplexity.value
    assert report["quantized_perplexity"]["value"] == result.perplexity.value
    assert report["tokens"] == source.tokens
    assert report["text_sha256"] == source.text_sha256
    ratio = report["perplexity_ratio"]
    assert ratio["value"] == pytest.approx(result.perplexity.value / source.perplexity.value)
    assert ratio["low"] < ratio["value"] < ratio["high"]
    assert 0 < report["top1_agreement"]["value"] < 1
    assert report["speed_ratio"] == pytest.approx(report["source_seconds"] / report["quantized_seconds"])


def test_without_text_the_report_holds_no_figure_and_says_why(tiny_llama):
    report = dict(quantize_model(tiny_llama).validation_report)
    assert report.pop("kind") == "generator"
    assert "No validation text" in report.pop("reason")
    assert set(report.values()) == {None}


def test_what_depends_on_the_run_is_returned_and_not_saved(tiny_llama, held_out_text, tmp_path):
    config = QuantizationConfig(validation_text=held_out_text[:500], window=32)
    returned = quantize_model(tiny_llama, config, out=tmp_path / "out")
    saved = QuantizedModel.from_pretrained(tmp_path / "out")
    assert returned.metrics["seconds"] > 0
    assert returned.metrics["parameters_per_second"] > 0
    assert not {"seconds", "parameters_per_second"} & saved.metrics.keys()
    assert saved.metrics.items() <= returned.metrics.items()
    assert saved.validation_report.items() <= returned.validation_report.items()
    text = (tmp_path / "out" / "tritium.json").read_text()
    assert str(tiny_llama) not in text
    assert held_out_text[:40] not in text


def test_the_sizes_are_those_of_the_tensors(tiny_llama, tmp_path):
    model = quantize_model(tiny_llama, QuantizationConfig(group_size=32), out=tmp_path / "out")
    metrics = model.metrics
    per_block = 40 * 40 * 2 + 20 * 40 * 2 + 72 * 40 * 3
    assert metrics["quantized_parameters"] == 2 * per_block
    assert metrics["parameters"] == 2 * per_block + 4096 * 40 + 5 * 40
    assert metrics["float32_bytes"] == 4 * metrics["parameters"] == metrics["source_bytes"]
    stored = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert metrics["quantized_bytes"] < stored < metrics["quantized_bytes"] + 8192
    assert metrics["reduction_to_float16"] == 1 - metrics["quantized_bytes"] / metrics["float16_bytes"]
    assert metrics["trit_bits_per_weight"] == pytest.approx(1.6, abs=0.001)
    assert metrics["bits_per_weight"] == model.bits_per_weight  # counted from the files, scales included
    assert metrics["bits_per_weight"] > metrics["trit_bits_per_weight"] + 8 / 40


@pytest.mark.parametrize("window", [0, 1, True, 2.5, "256"])
def test_a_window_that_predicts_nothing_is_refused(tiny_llama, held_out_text, window):
    with pytest.raises(ValidationError, match="window"):
        evaluate(tiny_llama, text=held_out_text, window=window)


def test_text_files_that_cannot_be_read_are_refused_by_name(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.txt").write_bytes(b" \n")
    for name, message in (("latin.txt", "UTF-8"), ("empty.txt", "empty"), ("none.txt", "cannot be read")):
        with pytest.raises(ValidationError, match=message):
            read_text(tmp_path / name)
    with pytest.raises(ValidationError):
        read_text(tmp_path)


def test_documents_are_what_blank_lines_separate():
    assert documents("\n\na\nb\n\n \nc\n") == ["a\nb", "c"]


def test_windows_lie_side_by_side_and_begin_each_document_with_the_first_token(scripture_llama):
    tokenizer = load_model(scripture_llama).tokenizer
    text = "In the beginning\n\nAnd God said"
    windows = token_windows(tokenizer, text, window=3, limit=None, first_token=0)
    ids = [0, *tokenizer.encode("In the beginning", add_special=False)]
    ids += [0, *tokenizer.encode("And God said", add_special=False)]
    joined = np.concatenate(windows).tolist()
    assert joined == ids[: len(joined)]
    assert len(ids) - len(joined) <= 1
    assert all(len(window) == 3 for window in windows[:-1])


@given(st.integers(1, 50), st.integers(1, 60))
def test_spread_keeps_order_and_takes_as_many_as_asked(length, count):
    chosen = spread(range(length), count=count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(length, count)


def test_passages_lose_no_word():
    text = "One. Two! Three? " * 60 + "\n\nFour; five."
    assert " ".join(passages(text)).split() == text.split()
    assert len(passages(text)) > 2


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=12))
@settings(max_examples=100, deadline=None)
def test_rank_correlation_is_pearsons_of_mean_ranks(pairs):
    first, second = (np.array(values, dtype=np.float64) for values in zip(*pairs, strict=True))

    def mean_ranks(values: np.ndarray) -> np.ndarray:
        return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])

    found = rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(np.corrcoef(mean_ranks(first), mean_ranks(second))[0, 1], abs=1e-9)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        counts = draw.integers(50, 100, size=60)
        sums = draw.normal(3.0, 0.4, size=60) * counts
        found = perplexity(sums, counts)
        covered += found.low < math.exp(3.0) < found.high
    assert 0.91 < covered / 400 < 0.98


def test_one_window_has_no_interval_and_shares_stay_between_0_and_1():
    assert mean_by_window(np.array([3]), np.array([4])).low is None
    edge = mean_by_window(np.array([10, 10, 9]), np.array([10, 10, 10]))
    assert edge.high == 1
    assert mean_of_samples(np.array([1.0, 2.0, 3.0])).value == 2


def test_the_interval_of_a_mean_is_that_of_the_sample_standard_deviation():
    values = np.array([0.2, 0.9, 0.4, 0.7])
    half = 1.959963984540054 * values.std(ddof=1) / np.sqrt(len(values))
    found = mean_of_samples(values)
    assert (found.low, found.high) == pytest.approx((0.55 - half, 0.55 + half))


def test_an_encoder_has_no_perplexity(minilm: Path):
    with pytest.raises(ValidationError, match="encoder"):
        evaluate(minilm, text="Some text.")
