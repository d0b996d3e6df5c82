"""Qwen3 as an encoder against transformers: dense, and with ternary projections behind norms of their own."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tritium.errors import ValidationError
from tritium.formats.checkpoint import open_checkpoint
from tritium.formats.native import open_native
from tritium.model.layers import TernaryLinear
from tritium.model.pooling import POOLING_FILE, Pooling
from tritium.model.pretrained import load_model
from tritium.model.qwen3_embedding import Qwen3EmbeddingModel
from tritium.quantize import QuantizationConfig, quantize_model

if TYPE_CHECKING:
    from pathlib import Path

    from tritium.model.encoder import EncoderModel

pytestmark = pytest.mark.oracle

SIZES = {
    "hidden_size": 60,
    "intermediate_size": 77,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "vocab_size": 131,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-3,  # large enough that a norm with another one shows
}
TEXTS = [np.random.default_rng(seed).integers(0, 131, length) for seed, length in enumerate((7, 1, 40))]
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# A row that was rounded differently once, beside rows where a mistake was made: see LARGEST_MEDIAN.
LARGEST_DISTANCE = 0.02


class Models:
    """Writes embedding checkpoints, and says what transformers makes of their texts."""

    def __init__(self, oracle: Any) -> None:
        self.oracle = oracle

    def write(self, path: Path, *, is_bitnet: bool, pooling: str | None = "lasttoken") -> Any:
        """Write a random model; BitNet's projections are transformers' own, with the norm it has for them."""
        torch, transformers = self.oracle.torch, self.oracle.transformers
        torch.manual_seed(0)
        model = transformers.Qwen3Model(transformers.Qwen3Config(**SIZES, attn_implementation="eager"))
        if is_bitnet:
            self._with_norms(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if "norm" in name else 0.0))
        path.mkdir(parents=True)
        config = {
            **SIZES,
            "model_type": "qwen3",
            "architectures": ["Qwen3Model"],
            "tie_word_embeddings": True,
        }
        (path / "config.json").write_text(json.dumps(config))
        tensors = {
            name.replace("_proj.rms_norm.", "_proj.norm."): tensor.numpy()
            for name, tensor in model.state_dict().items()
        }
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        if pooling is not None:
            (path / POOLING_FILE).parent.mkdir()
            (path / POOLING_FILE).write_text(json.dumps({f"pooling_mode_{pooling}": True}))
        return model.eval()

    def _with_norms(self, model: Any) -> None:
        from transformers.integrations.bitnet import AutoBitLinear  # noqa: PLC0415 - the bare wheel has none

        for name, module in list(model.named_modules()):
            if name.endswith(PROJECTIONS):
                linear = AutoBitLinear(
                    module.in_features,
                    module.out_features,
                    bias=False,
                    online_quant=True,
                    use_rms_norm=True,
                    rms_norm_eps=SIZES["rms_norm_eps"],
                )
                model.set_submodule(name, linear)

    def projection_inputs(self, model: Any, text: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the ternary projections read behind their norms, by name."""
        found: dict[str, np.ndarray] = {}

        def keep(name: str) -> Any:
            return lambda _module, _inputs, output: found.__setitem__(name, output[0].numpy())

        hooks = [
            module.rms_norm.register_forward_hook(keep(name))
            for name, module in model.named_modules()
            if name.endswith(PROJECTIONS)
        ]
        with self.oracle.torch.no_grad():
            model(self.oracle.torch.tensor(text[None]))
        for hook in hooks:
            hook.remove()
        return found

    def vectors(self, model: Any, *, pooling: str = "lasttoken") -> np.ndarray:
        rows = []
        for text in TEXTS:
            with self.oracle.torch.no_grad():
                states = model(self.oracle.torch.tensor(text[None])).last_hidden_state[0].numpy()
            row = states[-1] if pooling == "lasttoken" else states.mean(0)
            rows.append(row / np.linalg.norm(row))
        return np.stack(rows)


@pytest.fixture(scope="module")
def models(oracle: Any) -> Models:
    return Models(oracle)


@pytest.fixture(scope="module")
def bitnet(models: Models, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("bitnet-embedding") / "model"
    return path, models.write(path, is_bitnet=True)


def _inputs(model: EncoderModel, text: np.ndarray) -> dict[str, np.ndarray]:
    seen: dict[str, np.ndarray] = {}
    model.observer = lambda name, x: seen.__setitem__(name, x.copy())
    model.encode([text])
    model.observer = None
    return seen


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("pooling", ["lasttoken", "mean_tokens"])
def test_every_coordinate_of_a_dense_model_is_that_of_transformers(
    prefix: str, pooling: str, models: Models, tmp_path: Path
) -> None:
    theirs = models.write(tmp_path / "model", is_bitnet=False, pooling=pooling)
    if prefix:
        file = tmp_path / "model" / "model.safetensors"
        save_file({prefix + name: tensor for name, tensor in load_file(file).items()}, file)
    actual = load_model(tmp_path / "model").encoder.encode(TEXTS)
    assert np.abs(actual - models.vectors(theirs, pooling=pooling)).max() < 1e-5


def test_a_bitnet_model_differs_from_transformers_only_after_a_tie_of_rounding(
    bitnet: tuple[Path, Any], models: Models, trace: Any
) -> None:
    path, theirs = bitnet
    ours = load_model(path).encoder
    assert isinstance(ours, Qwen3EmbeddingModel)
    assert all(isinstance(linear, TernaryLinear) for linear in ours.linears().values())
    for text in TEXTS:
        found = models.projection_inputs(theirs, text)
        divergence = trace.first_divergence(_inputs(ours, text), found)
        assert divergence is None or divergence.largest_distance < 1e-3
    assert np.abs(ours.encode(TEXTS) - models.vectors(theirs)).max() < LARGEST_DISTANCE


def test_a_text_does_not_depend_on_its_neighbours_or_on_threads(bitnet: tuple[Path, Any]) -> None:
    one, two = (load_model(bitnet[0], threads=count).encoder for count in (1, 2))
    together = one.encode(TEXTS)
    np.testing.assert_array_equal(two.encode(TEXTS), together)
    for row, text in zip(together, TEXTS, strict=True):
        np.testing.assert_array_equal(one.encode([text])[0], row)


def _without_projection_norms(model: Any) -> None:
    model._backbone._projection_norms = {}


def _with_one_norm_for_queries_keys_and_values(model: Any) -> None:
    norms = model._backbone._projection_norms
    for name in [name for name in norms if name.endswith(("k_proj", "v_proj"))]:
        norms[name] = norms[f"{name.rsplit('.', 1)[0]}.q_proj"]


def _with_another_epsilon(model: Any) -> None:
    norms = model._backbone._projection_norms
    for name, norm in norms.items():
        norms[name] = type(norm)(norm.weight, 0.5)


def _without_head_norms(model: Any) -> None:
    model._backbone.normalise_heads = lambda _run, _index, q, k: (q, k)


def _without_the_final_norm(model: Any) -> None:
    model.finish = lambda hidden: hidden


def _with_the_mean_instead_of_the_last(model: Any) -> None:
    model._pooling = Pooling.MEAN


@pytest.mark.parametrize(
    "mutate",
    [
        _without_projection_norms,
        _with_one_norm_for_queries_keys_and_values,
        _with_another_epsilon,
        _without_head_norms,
        _without_the_final_norm,
        _with_the_mean_instead_of_the_last,
    ],
    ids=lambda mutate: mutate.__name__.strip("_"),
)
def test_a_mistake_is_far_outside_what_ties_do(mutate: Any, bitnet: tuple[Path, Any], models: Models) -> None:
    path, theirs = bitnet
    model = load_model(path).encoder
    mutate(model)
    assert np.abs(model.encode(TEXTS) - models.vectors(theirs)).max() > 5 * LARGEST_DISTANCE


def test_an_import_keeps_every_vector_to_the_bit(bitnet: tuple[Path, Any], tmp_path: Path) -> None:
    quantize_model(bitnet[0], out=tmp_path / "imported")
    with open_checkpoint(bitnet[0]) as source, open_native(tmp_path / "imported") as native:
        assert len(native.manifest["linears"]) == 14
        assert all(entry["is_lossless"] for entry in native.manifest["linears"].values())
        for name in source.tensors:
            if name.removesuffix(".weight") not in native.manifest["linears"]:
                assert native.checkpoint.read(name).tobytes() == source.read(name).tobytes()
    before, after = load_model(bitnet[0]).encoder, load_model(tmp_path / "imported").encoder
    np.testing.assert_array_equal(before.encode(TEXTS), after.encode(TEXTS))


def test_a_dense_model_is_quantized_behind_its_own_layers(
    models: Models, calibration_text: str, scripture_llama: Path, tmp_path: Path
) -> None:
    source = tmp_path / "model"
    models.write(source, is_bitnet=False)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(scripture_llama / name, source / name)
    tensors = load_file(source / "model.safetensors")
    rows = np.random.default_rng(0).standard_normal((4096, 60)).astype(np.float32)
    save_file({**tensors, "embed_tokens.weight": rows}, source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "vocab_size": 4096}))
    settings = QuantizationConfig(
        min_planes=3, group_size=32, calibration_text=calibration_text[:2000], calibration_tokens=96
    )
    quantize_model(source, settings, out=tmp_path / "quantized")
    cosines = load_model(source).encoder.encode(TEXTS) * load_model(tmp_path / "quantized").encoder.encode(
        TEXTS
    )
    assert cosines.sum(axis=1).min() > 0.9


def test_a_norm_that_is_missing_is_named(bitnet: tuple[Path, Any], tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(bitnet[0], path)
    tensors = load_file(path / "model.safetensors")
    del tensors["layers.1.mlp.down_proj.norm.weight"]
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(ValidationError, match=r"misses .*layers\.1\.mlp\.down_proj\.norm"):
        load_model(path)


def test_a_head_that_no_encoder_reads_may_be_there(bitnet: tuple[Path, Any], tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(bitnet[0], path)
    head = np.ones((131, 60), np.float32)
    save_file({**load_file(path / "model.safetensors"), "lm_head.weight": head}, path / "model.safetensors")
    np.testing.assert_array_equal(
        load_model(path).encoder.encode(TEXTS), load_model(bitnet[0]).encoder.encode(TEXTS)
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"quantization_config": {"quant_method": "bitnet"}}, "quantization_config"),
        # A generator with such norms is not known: nothing says what its head reads.
        ({"architectures": ["Qwen3ForCausalLM"]}, "misses"),
    ],
)
def test_norms_where_they_are_not_known_are_refused(
    change: dict[str, Any], named: str, bitnet: tuple[Path, Any], tmp_path: Path
) -> None:
    path = tmp_path / "model"
    shutil.copytree(bitnet[0], path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValidationError, match=named):
        load_model(path)


@pytest.mark.parametrize("pooling", [None, "cls_token", "weightedmean_tokens"])
def test_a_pooling_that_is_not_said_or_not_known_is_refused(
    pooling: str | None, models: Models, tmp_path: Path
) -> None:
    models.write(tmp_path / "model", is_bitnet=False, pooling=pooling)
    with pytest.raises(ValidationError, match=pooling or "how its vectors are pooled"):
        load_model(tmp_path / "model")
