"""Every figure of the report follows from what was recorded, and a figure that does not is found by name."""

from __future__ import annotations

import json
import math
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats import native as native_module
from tritium.formats.native import open_native
from tritium.kernels import _native
from tritium.kernels.measure import Product
from tritium.model.pretrained import QuantizedModel, load_model
from tritium.quantize import QuantizationConfig, quantize_model
from tritium.quantize.evaluate import encoder_passages, run_encoder
from tritium.quantize.figures import neighbours, validation_figures
from tritium.quantize.recompute import recompute_report
from tritium.quantize.record import RECORD, RunRecord, Side, read_record
from tritium.quantize.samples import continue_greedily, prompts
from tritium.quantize.timing import Timing, read_timing, timing_file, write_timing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SENTENCES = (
    "the cat sat on a mat.",
    "a mat sat.",
    "on the mat a cat.",
    "cat cat the.",
    "the mat on the cat.",
)


@pytest.fixture(scope="module")
def generator(tiny_llama, held_out_text, tmp_path_factory) -> Path:
    """A quantized generator with its record: seven windows of 64 tokens, embedding in 6 bits."""
    out = tmp_path_factory.mktemp("record") / "generator"
    config = QuantizationConfig(
        validation_text=held_out_text[:1500], window=64, embedding_bits=6, group_size=32
    )
    quantize_model(tiny_llama, config, out=out)
    return out


@pytest.fixture(scope="module")
def encoder(small_encoder, tmp_path_factory) -> Path:
    """A quantized encoder with its record: five passages."""
    out = tmp_path_factory.mktemp("record") / "encoder"
    config = QuantizationConfig(validation_text="\n\n".join(SENTENCES), group_size=32)
    quantize_model(small_encoder, config, out=out)
    return out


@pytest.fixture(params=["generator", "encoder"])
def model(request, tmp_path) -> Path:
    """A copy of either, to be altered."""
    return shutil.copytree(request.getfixturevalue(request.param), tmp_path / "model")


def alter_manifest(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest and seal it again, as somebody would who wants a nicer report."""
    path = directory / "tritium.json"
    content = json.loads(path.read_bytes())
    del content["manifest_sha256"]
    change(content)
    path.write_bytes(native_module._sealed(content))


def alter_record(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the record, and the manifest so that it names the new bytes."""
    content = json.loads((directory / RECORD).read_bytes())
    change(content)
    (directory / RECORD).write_text(json.dumps(content))
    fingerprint = native_module._fingerprint(directory / RECORD)
    alter_manifest(directory, lambda manifest: manifest["files"].update({RECORD: fingerprint}))


def numbers_in(value: Any, *place: Any) -> list[tuple[Any, ...]]:
    """Return the places of all numbers in nested plain values."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, inner in items for found in numbers_in(inner, *place, key)]
    return [place] if type(value) in {int, float} else []


def nudge(content: Any, place: tuple[Any, ...]) -> None:
    """Change one number a little."""
    for key in place[:-1]:
        content = content[key]
    if "similarities" in place:
        content[place[-1]] = 2.0  # their ranks count: the first one becomes the largest
        return
    value = content[place[-1]]
    content[place[-1]] += 1 if type(value) is int else 1e-6 * max(1, abs(value))


def test_all_figures_follow_from_the_record(model):
    result = recompute_report(model)
    assert result.differences == ()
    manifest = json.loads((model / "tritium.json").read_bytes())
    reported = numbers_in({key: manifest[key] for key in ("metrics", "validation_report")})
    assert {".".join(map(str, place)) for place in reported} <= result.figures.keys()
    assert len(reported) > 20


def test_a_record_that_is_read_and_written_has_the_same_bytes(model):
    assert RunRecord.from_bytes((model / RECORD).read_bytes()).to_bytes() == (model / RECORD).read_bytes()


def test_every_number_altered_in_the_report_is_found_and_named(model):
    manifest = json.loads((model / "tritium.json").read_bytes())
    places = numbers_in({key: manifest[key] for key in ("metrics", "validation_report")})
    layer = min(manifest["linears"])
    places += [("linears", layer, key) for key in ("weight_error", "bits_per_weight", "stored_bytes")]
    original = (model / "tritium.json").read_bytes()
    for place in places:
        alter_manifest(model, lambda content, place=place: nudge(content, place))
        found = recompute_report(model).differences
        assert [difference.figure for difference in found] == [".".join(map(str, place))]
        (model / "tritium.json").write_bytes(original)


def test_every_kind_of_number_altered_in_the_record_changes_a_figure(model):
    record = json.loads((model / RECORD).read_bytes())
    kinds: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for place in numbers_in(record):
        if place[0] != "version" and "samples" not in place:
            kinds.setdefault(tuple(key for key in place if isinstance(key, str)), place)
    before = {name: (model / name).read_bytes() for name in (RECORD, "tritium.json")}
    for place in kinds.values():
        alter_record(model, lambda content, place=place: nudge(content, place))
        assert recompute_report(model).differences, place
        for name, content in before.items():
            (model / name).write_bytes(content)


def test_a_verdict_made_prettier_is_found(model):
    verdict = json.loads((model / "tritium.json").read_bytes())["validation_report"]["is_broken"]
    alter_manifest(model, lambda manifest: manifest["validation_report"].update(is_broken=not verdict))
    assert [each.figure for each in recompute_report(model).differences] == ["validation_report.is_broken"]


def test_the_findings_follow_from_the_record(generator, tmp_path):
    model = shutil.copytree(generator, tmp_path / "model")  # random weights: less than frequencies tell
    alter_manifest(model, lambda manifest: manifest["validation_report"].update(findings=[]))
    figures = [each.figure for each in recompute_report(model).differences]
    assert "validation_report.findings.0.message" in figures


def test_a_record_altered_without_the_manifest_is_refused_by_its_name(model):
    content = (model / RECORD).read_bytes()
    (model / RECORD).write_bytes(content.replace(b"1", b"2", 1))
    with pytest.raises(ValidationError, match=r"record\.json"):
        recompute_report(model)


def test_a_figure_that_the_record_does_not_give_is_found(model):
    alter_manifest(model, lambda manifest: manifest["metrics"].update({"accuracy_preserved": 99.7}))
    (found,) = recompute_report(model).differences
    assert (found.figure, found.stored, found.recomputed) == ("metrics.accuracy_preserved", 99.7, None)


def test_another_tokenizer_than_the_one_that_cut_the_text_is_found(generator, tmp_path):
    model = shutil.copytree(generator, tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_bytes())
    (model / "tokenizer.json").write_text(json.dumps(tokenizer | {"version": "1.0"}, indent=1))
    fingerprint = native_module._fingerprint(model / "tokenizer.json")
    alter_manifest(model, lambda manifest: manifest["files"].update({"tokenizer.json": fingerprint}))
    assert [each.figure for each in recompute_report(model).differences] == ["files.tokenizer.json.sha256"]


@pytest.mark.parametrize("source", ["tiny_llama", "small_encoder"])
def test_threads_do_not_change_a_byte_of_the_record(request, held_out_text, tmp_path, source):
    text = held_out_text[:700] if source == "tiny_llama" else "\n\n".join(SENTENCES)
    config = QuantizationConfig(validation_text=text, window=48, group_size=32)
    records = set()
    for threads in (1, 3):
        out = tmp_path / str(threads)
        quantize_model(request.getfixturevalue(source), config, out=out, threads=threads)
        records.add((out / RECORD).read_bytes())
    assert len(records) == 1


def test_a_model_without_a_record_says_so(generator, tmp_path):
    model = shutil.copytree(generator, tmp_path / "model")
    (model / RECORD).unlink()
    alter_manifest(model, lambda manifest: manifest["files"].pop(RECORD))
    with pytest.raises(ValidationError, match=r"no record\.json"):
        recompute_report(model)


DAMAGE = {
    "another version": lambda content: content.update(version=2),
    "no version": lambda content: content.pop("version"),
    "an unknown kind": lambda content: content.update(kind="painter"),
    "an unknown field": lambda content: content.update(accuracy=0.997),
    "no source": lambda content: content.pop("source_bytes"),
    "a size that is text": lambda content: content.update(source_parameters="many"),
    "layers that are none": lambda content: content.update(layers=[1]),
    "a layer that is none": lambda content: content["layers"].update(extra=3),
    "a text that is none": lambda content: content.update(text=7),
    "one window more": lambda content: content["text"]["counts"].append(3),
    "a count that is text": lambda content: content["text"]["counts"].append("3"),
    "no source results": lambda content: content["text"]["results"].pop("source"),
    "an unknown side": lambda content: content["text"]["results"].update(best={}),
    "results missing": lambda content: content["text"]["results"]["quantized"].popitem(),
    "a list that is too long": lambda content: next(
        iter(content["text"]["results"]["quantized"].values())
    ).append(1),
    "a list that is none": lambda content: content["text"]["results"].update(source=3),
    "one unigram loss more": lambda content: content["text"]["unigram_losses"].append(3),
    "a reading without numbers": lambda content: content["text"]["other_readings"].update(extra=["much"]),
    "a reading of other windows": lambda content: content["text"]["other_readings"].update(extra=[1.5] * 6),
    "losslessness in numbers": lambda content: content["text"].update(is_lossless=1),
    "a sample that is none": lambda content: content["text"]["samples"].append({"prompt": 1}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_record_that_is_none_is_refused_by_its_name(model, damage):
    content = json.loads((model / RECORD).read_bytes())
    DAMAGE[damage](content)
    with pytest.raises(ValidationError, match=r"record\.json"):
        RunRecord.from_bytes(json.dumps(content).encode())


def test_without_a_text_the_sizes_are_recorded_and_recomputed(tiny_llama, tmp_path):
    quantize_model(tiny_llama, QuantizationConfig(group_size=32), out=tmp_path / "out")
    record = read_record(tmp_path / "out")
    assert record.text is None
    assert len(record.layers) == 14
    assert recompute_report(tmp_path / "out").differences == ()
    assert validation_figures(record.kind, None).reason


def test_the_four_bit_model_is_measured_on_the_same_text(generator, scripture_bitnet_offline, held_out_text):
    record = read_record(generator)
    assert record.text.results.keys() == {"source", "quantized", "four_bit"}
    manifest = QuantizedModel.from_pretrained(generator).manifest
    four_bit = manifest["validation_report"]["four_bit"]
    losses = np.array(record.text.results["four_bit"]["losses"])
    assert four_bit["perplexity"]["value"] == pytest.approx(math.exp(losses.sum() / sum(record.text.counts)))
    assert manifest["metrics"]["four_bit_bytes"] == sum(record.four_bit_bytes.values())
    ternary = quantize_model(
        scripture_bitnet_offline, QuantizationConfig(validation_text=held_out_text[:900])
    )
    assert ternary.validation_report["four_bit"] is None


def test_four_bits_keep_more_of_a_trained_model_than_one_plane(scripture_llama, held_out_text):
    config = QuantizationConfig(validation_text=held_out_text[:4000], max_planes=1)
    report = quantize_model(scripture_llama, config).validation_report
    ratio = report["four_bit"]["perplexity_ratio"]["value"]
    assert 0.98 < ratio < report["perplexity_ratio"]["value"]


def test_samples_are_what_the_models_write(generator, tiny_llama, held_out_text):
    source, quantized = load_model(tiny_llama), load_model(generator)
    begun = prompts(source, held_out_text[:1500])
    samples = read_record(generator).text.samples
    assert len(samples) == len(begun) == 3
    for prompt, sample in zip(begun, samples, strict=True):
        assert sample["prompt"] == source.tokenizer.decode(prompt)
        assert sample["quantized"] == continue_greedily(quantized, prompt).text
        ids = list(prompt)
        for _ in range(32):  # the slow way: the whole sequence again for each token
            ids.append(int(source.generator.forward_full(ids)[-1].argmax()))
            if ids[-1] in source.config.eos_token_ids:
                ids.pop()
                break
        assert sample["source"] == source.tokenizer.decode(ids[len(prompt) :])


def test_the_record_holds_of_the_text_no_more_than_the_samples(generator, held_out_text):
    content = json.loads((generator / RECORD).read_bytes())
    content["text"]["samples"] = []
    words = {word for word in held_out_text[:1500].split() if len(word) > 6}
    assert len(words) > 5
    assert not any(word in json.dumps(content) for word in words)


def test_neighbours_are_those_of_the_embeddings(encoder, small_encoder):
    passages = encoder_passages("\n\n".join(SENTENCES))
    text = read_record(encoder).text
    for side, place in ((Side.SOURCE, small_encoder), (Side.QUANTIZED, encoder)):
        rows = run_encoder(load_model(place), passages).embeddings.astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        for passage in range(len(passages)):
            similarity = rows @ rows[passage]
            similarity[passage] = -np.inf
            assert neighbours(text, side=side, passage=passage, count=1) == [int(similarity.argmax())]
    quoted = {sample["passage"]: sample["text"] for sample in text.samples}
    assert all(passages[passage] == quote for passage, quote in quoted.items())


def test_the_timing_lies_beside_the_model_and_gives_its_speeds(tiny_llama, held_out_text, tmp_path):
    config = QuantizationConfig(validation_text=held_out_text[:900], window=64)
    model = quantize_model(tiny_llama, config, out=tmp_path / "out", threads=1)
    timing = read_timing(tmp_path / "out")
    assert timing.layer_seconds == model.metrics["seconds"] > 0
    assert timing.threads == 1
    if len(_native.available_isas()) > 1 and "TRITIUM_ISA" not in os.environ:
        shape = timing.product
        assert (shape.out_features, shape.in_features) == (72, 40)  # the largest linear layer
        assert {candidate.isa for candidate in timing.candidates} == set(_native.available_isas())
        assert (timing.isa, 1) == (timing.candidates[0].isa, timing.candidates[0].threads)
    for side in ("source", "quantized"):
        speed, report = timing.speeds[side], model.validation_report
        assert report[f"{side}_prefill_speed"] == speed.prefill_tokens / speed.prefill_seconds
        assert report[f"{side}_decode_speed"] == speed.decode_tokens / speed.decode_seconds
        assert speed.prefill_tokens == report["tokens"] + report["samples"]
    with open_native(tmp_path / "out") as native:
        assert not set(native.manifest["files"]) & {timing_file(tmp_path / "out").name}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.run.json"]


def test_altered_timings_are_refused_and_another_models_are_not_taken(generator, tmp_path):
    model = shutil.copytree(generator, tmp_path / "model")
    assert read_timing(model) is None
    product = Product(out_features=30, in_features=20, rows=1)
    timing = Timing.here(threads=1, product=product, layer_seconds=2.5, speeds={})
    write_timing(timing, model)
    assert read_timing(model) == timing
    content = timing_file(model).read_bytes()
    timing_file(model).write_bytes(content.replace(b"2.5", b"1.5"))
    with pytest.raises(ValidationError, match=r"model\.run\.json.*altered"):
        read_timing(model)
    timing_file(model).write_bytes(content)
    alter_manifest(model, lambda manifest: manifest.update(note="another"))
    assert read_timing(model) is None
