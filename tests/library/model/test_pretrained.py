"""Models that Tritium saved: the same results, the same bytes, by memory map."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.native import open_native, save_native
from tritium.kernels import _native
from tritium.kernels.packing import pack_trits
from tritium.model.companions import companion_files
from tritium.model.config import parse_config
from tritium.model.pretrained import QuantizedModel, load_model
from tritium.model.weights import CheckpointWeights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritium.model.bert import BertModel


def _save(source: Path, target: Path, **manifest: Any) -> Path:
    """Import a native ternary checkpoint without loss."""
    with open_checkpoint(source) as checkpoint:
        weights = CheckpointWeights(checkpoint, parse_config(checkpoint.config))
        names = weights.architecture.linears
        tensors = {name: checkpoint.read(name) for name in weights.architecture.tensors}
        linears = {}
        for name, shape in names.items():
            layer = weights.ternary(name)
            tensors[f"{name}.trits"], tensors[f"{name}.scales"] = (
                pack_trits(layer.trits.reshape(1, -1)),
                layer.scale,
            )
            linears[name] = {
                "in_features": shape.in_features,
                "out_features": shape.out_features,
                "planes": 1,
                "group_size": shape.in_features,
                "divides": layer.divides,
            }
        content = {"linears": linears, "config": checkpoint.config, **manifest}
        save_native(target, tensors=tensors, manifest=content, files=companion_files(checkpoint))
    return target


@pytest.fixture(params=["scripture_bitnet_bitlinear", "scripture_bitnet_offline", "scripture_bitnet_online"])
def source(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def test_no_result_depends_on_the_device_that_was_chosen(
    scripture_bitnet_offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_ids, found, before = np.arange(5, 40, dtype=np.int32), [], _native.isa()
    try:
        for isa in _native.available_isas():
            monkeypatch.setenv("TRITIUM_ISA", isa)
            for threads in (1, 2):
                loaded = load_model(scripture_bitnet_offline, threads=threads)
                assert (loaded.device.isa, _native.isa()) == (isa, isa)
                found.append(loaded.generator.forward_full(token_ids))
    finally:
        _native.set_isa(before)
    for logits in found[1:]:
        np.testing.assert_array_equal(logits, found[0])


def test_a_saved_model_gives_the_same_bits_as_its_source(source: Path, tmp_path: Path) -> None:
    saved = load_model(_save(source, tmp_path / "native"))
    token_ids = saved.tokenizer.encode("In the beginning God created the heaven and the earth.")
    expected = load_model(source).generator.forward_full(token_ids)
    actual = saved.generator.forward_full(token_ids)
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def test_a_saved_scale_keeps_the_bytes_of_its_source(
    scripture_bitnet_bitlinear: Path, tmp_path: Path
) -> None:
    path = _save(scripture_bitnet_bitlinear, tmp_path / "native")
    with open_native(path) as native, open_checkpoint(scripture_bitnet_bitlinear) as checkpoint:
        assert native.checkpoint.is_memory_mapped
        for name in native.manifest["linears"]:
            saved = native.checkpoint.read(f"{name}.scales")
            assert saved.tobytes() == checkpoint.read(f"{name}.weight_scale").tobytes()


def test_saving_a_loaded_model_again_gives_the_same_files(source: Path, tmp_path: Path) -> None:
    first = _save(source, tmp_path / "first", metrics={"seconds": 1.5})
    QuantizedModel.from_pretrained(first).save_pretrained(tmp_path / "second")
    for file in sorted(path for path in first.rglob("*") if path.is_file()):
        assert file.read_bytes() == (tmp_path / "second" / file.relative_to(first)).read_bytes()


def test_a_quantized_model_tells_what_was_measured(scripture_bitnet_offline: Path, tmp_path: Path) -> None:
    path = _save(
        scripture_bitnet_offline, tmp_path / "native", metrics={"seconds": 1.5}, validation_report={"a": 1}
    )
    model = QuantizedModel.from_pretrained(path)
    assert (model.metrics, model.validation_report) == ({"seconds": 1.5}, {"a": 1})
    assert 1.6 <= model.bits_per_weight < 1.601  # five trits to a byte and one scale per layer
    assert model.config.model_type == "bitnet"
    assert model.tokenizer.vocab_size == 4096
    assert model.loaded.generator is model.model


@pytest.mark.parametrize("change", [lambda byte: byte ^ 1, lambda _: 255])
def test_one_changed_byte_is_found(
    scripture_bitnet_offline: Path, tmp_path: Path, change: Callable[[int], int]
) -> None:
    path = _save(scripture_bitnet_offline, tmp_path / "native")
    weights = path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] = change(content[-1])  # the last trits: 255 is no five of them, which is noticed first
    weights.write_bytes(bytes(content))
    with pytest.raises(ValidationError, match="altered"):
        load_model(path)


def test_a_manifest_that_does_not_fit_the_config_is_refused(
    scripture_bitnet_offline: Path, tmp_path: Path
) -> None:
    with open_checkpoint(scripture_bitnet_offline) as checkpoint:
        config = {**checkpoint.config, "intermediate_size": 512}
        files = {**companion_files(checkpoint), "config.json": json.dumps(config).encode()}
    with open_native(_save(scripture_bitnet_offline, tmp_path / "native")) as native:
        tensors = {name: native.checkpoint.read(name) for name in native.checkpoint.tensors}
        manifest = {"linears": native.manifest["linears"], "config": config}
        save_native(tmp_path / "other", tensors=tensors, manifest=manifest, files=files)
    with pytest.raises(ValidationError, match="the config asks for 512"):
        load_model(tmp_path / "other")


def test_a_directory_without_a_config_is_refused(scripture_llama: Path, tmp_path: Path) -> None:
    shutil.copy(scripture_llama / "model.safetensors", tmp_path)
    with pytest.raises(ValidationError, match=r"no config\.json"):
        load_model(tmp_path)


def test_a_generator_is_no_encoder(scripture_llama: Path) -> None:
    loaded = load_model(scripture_llama)
    assert loaded.generator is loaded.model
    with pytest.raises(ValidationError, match="generates text"):
        _ = loaded.encoder


def test_replacing_a_layer_changes_the_result_and_only_the_same_shape_fits(scripture_llama: Path) -> None:
    model = load_model(scripture_llama).generator
    name, other = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"
    before = model.forward_full([1, 2, 3])
    model.set_linear(name, model.linears()[other])
    assert np.abs(model.forward_full([1, 2, 3]) - before).max() > 0.01
    with pytest.raises(ValidationError, match="768 x 256, not 256 x 768"):
        model.set_linear(name, model.linears()["model.layers.0.mlp.down_proj"])
    with pytest.raises(ValidationError, match="no linear layer 'lm_head'"):
        model.set_linear("lm_head", model.linears()[name])


def test_an_observer_sees_every_layer_in_order(scripture_llama: Path) -> None:
    model = load_model(scripture_llama).generator
    seen: list[tuple[str, tuple[int, ...]]] = []
    model.observer = lambda name, x: seen.append((name, x.shape))
    model.forward_full([1, 2, 3])
    assert [name for name, _ in seen] == list(model.linears())
    assert all(shape == (3, model.linears()[name].in_features) for name, shape in seen)


def _bert(directory: Path, **pooling: object) -> Path:
    """A BERT of random weights, written by hand so that it needs no oracle."""
    config = {
        "model_type": "bert",
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "vocab_size": 50,
        "max_position_embeddings": 16,
    }
    from safetensors.numpy import save_file  # noqa: PLC0415

    from tritium.model.architecture import architecture_for  # noqa: PLC0415

    architecture = architecture_for(parse_config(config))
    shapes = dict(architecture.tensors)
    for name, shape in architecture.linears.items():
        shapes |= {
            f"{name}.weight": (shape.out_features, shape.in_features),
            f"{name}.bias": (shape.out_features,),
        }
    random = np.random.default_rng(0)
    directory.mkdir()
    save_file(
        {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()},
        directory / "model.safetensors",
    )
    (directory / "config.json").write_text(json.dumps(config))
    if pooling:
        (directory / "1_Pooling").mkdir()
        (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return directory


@pytest.mark.parametrize(
    "pooling",
    [{}, {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, {"pooling_mode": "mean"}],
)
def test_a_vector_has_length_one_and_does_not_depend_on_its_neighbours(
    pooling: dict[str, object], tmp_path: Path
) -> None:
    model: BertModel = load_model(_bert(tmp_path / "bert", **pooling)).encoder
    texts = [[1, 2, 3], [4], list(range(16)), [7, 7]]
    together = model.encode(texts)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-6)
    alone = np.concatenate([model.encode([text]) for text in texts])
    np.testing.assert_array_equal(together.view(np.uint32), alone.view(np.uint32))


@pytest.mark.parametrize(
    ("pooling", "named"),
    [
        ({"pooling_mode_cls_token": True}, "cls_token"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "lasttoken"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"word_embedding_dimension": 24}, "none"),
    ],
)
def test_another_pooling_is_refused_by_name(pooling: dict[str, object], named: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=named):
        load_model(_bert(tmp_path / "bert", **pooling))


@pytest.mark.parametrize("texts", [[], [[]], [[1], []], [[50]], [[-1]], [[1] * 17]])
def test_texts_that_cannot_be_encoded_are_refused(texts: list[list[int]], tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        load_model(_bert(tmp_path / "bert")).encoder.encode(texts)


@pytest.mark.parametrize("path", [None, 5, b"path", ""])
def test_what_is_no_path_is_refused(path: Any) -> None:
    for read in (load_model, QuantizedModel.from_pretrained):
        with pytest.raises(ValidationError, match="path or its hub name"):
            read(path)


def test_a_model_without_its_config_says_what_to_do(scripture_llama: Path, tmp_path: Path) -> None:
    shutil.copy(scripture_llama / "model.safetensors", tmp_path)
    with pytest.raises(ValidationError, match=r"no config\.json: copy it"):
        load_model(tmp_path)
