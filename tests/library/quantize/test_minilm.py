"""A real sentence encoder, all-MiniLM-L6-v2, quantized and judged."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.model.pretrained import QuantizedModel, load_model
from tritium.quantize import QuantizationConfig, plan_quantization, quantize_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def texts(request):
    return request.getfixturevalue("calibration_text")[:40_000], request.getfixturevalue("held_out_text")


@pytest.fixture(scope="module")
def by_planes(minilm, texts, tmp_path_factory) -> dict[int, QuantizedModel]:
    """The encoder with one, two and three planes in every layer."""
    calibration, validation = texts
    return {
        planes: quantize_model(
            minilm,
            QuantizationConfig(
                min_planes=planes,
                max_planes=planes,
                calibration_text=calibration if planes == 1 else None,
                calibration_tokens=512,
                validation_text=validation[:15_000],
            ),
            out=tmp_path_factory.mktemp("minilm") / str(planes),
        )
        for planes in (1, 2, 3)
    }


def test_all_36_linear_layers_become_trits_and_the_rest_is_kept(by_planes):
    metrics = by_planes[1].metrics
    assert metrics["layers"] == 36
    assert metrics["quantized_parameters"] == 10_616_832
    assert metrics["trit_bits_per_weight"] == pytest.approx(1.6, abs=1e-4)
    assert metrics["bits_per_weight"] == pytest.approx(1.6625, abs=1e-3)


def test_more_planes_keep_the_embeddings_closer(by_planes):
    reports = {planes: model.validation_report for planes, model in by_planes.items()}
    assert {report["kind"] for report in reports.values()} == {"encoder"}
    cosines = [reports[planes]["cosine_similarity"]["value"] for planes in (1, 2, 3)]
    ranks = [reports[planes]["rank_correlation"] for planes in (1, 2, 3)]
    assert cosines == sorted(cosines)
    assert ranks == sorted(ranks)
    assert cosines[1] > 0.8
    assert cosines[2] > 0.96
    assert ranks[2] > 0.98


def test_the_quantized_encoder_gives_unit_vectors_close_to_the_source(minilm, by_planes):
    sentences = ["A man is eating food.", "Somebody eats a meal.", "The stock market fell sharply today."]
    source, result = load_model(minilm), by_planes[3].loaded
    ids = [source.tokenizer.encode(sentence) for sentence in sentences]
    before, after = source.encoder.encode(ids), result.encoder.encode(ids)
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)
    assert ((before * after).sum(axis=1) > 0.93).all()
    assert after[0] @ after[1] > after[0] @ after[2] + 0.2


def test_the_same_bytes_come_again_from_a_saved_copy(by_planes, tmp_path):
    by_planes[1].save_pretrained(tmp_path / "copy")
    for path in by_planes[1].path.rglob("*"):
        if path.is_file():
            copy = tmp_path / "copy" / path.relative_to(by_planes[1].path)
            assert copy.read_bytes() == path.read_bytes()


def test_text_for_an_encoder_without_its_tokenizer_is_refused(minilm: Path, tmp_path, texts):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(minilm / name, tmp_path / name)
    with pytest.raises(ValidationError, match=r"tokenizer\.json"):
        plan_quantization(tmp_path, QuantizationConfig(validation_text=texts[0]))


def test_one_passage_is_too_few_to_compare_encoders(minilm: Path):
    with pytest.raises(ValidationError, match="two passages"):
        plan_quantization(minilm, QuantizationConfig(validation_text="Only one."))
