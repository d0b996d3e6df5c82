"""Models from GGUF files: the same trits, the same scales, the same logits, or a refusal by name."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.checkpoint import Checkpoint, open_checkpoint
from tritium.formats.floats import bfloat16_to_float32
from tritium.formats.gguf import GGUFTensor, TensorType, Value, write_gguf
from tritium.formats.gguf_blocks import encode_q6_k, encode_q8_0
from tritium.formats.gguf_reader import GGUFFile
from tritium.formats.native import NativeModel, open_native
from tritium.formats.scale_codes import decode_scales
from tritium.kernels.packing import unpack_trits
from tritium.model.config import parse_config
from tritium.model.export_gguf import export_gguf
from tritium.model.gguf_config import gguf_config
from tritium.model.gguf_metadata import gguf_metadata, rope_factors
from tritium.model.gguf_model import is_gguf, open_gguf
from tritium.model.gguf_names import gguf_name
from tritium.model.pretrained import load_model
from tritium.model.weights import CheckpointWeights
from tritium.quantize.config import LayerOverride, QuantizationConfig
from tritium.quantize.pipeline import quantize_model
from tritium.quantize.recompute import recompute_report
from tritium.quantize.source import open_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IDS = np.arange(5, 45, dtype=np.int32)
LLAMA_3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def logits(source: Path) -> np.ndarray:
    return load_model(source).generator.forward_full(IDS)


@pytest.fixture(scope="module", params=[("tq1_0", 0), ("tq2_0", 256)], ids=["tq1_0 rows", "tq2_0 blocks"])
def exported(request, scripture_llama, tmp_path_factory) -> tuple[str, Path, Path]:
    """The type, the GGUF file, and the model it was exported from."""
    kind, group_size = request.param
    directory = tmp_path_factory.mktemp("gguf")
    config = QuantizationConfig(group_size=group_size, max_planes=1, embedding_bits=16)
    quantize_model(scripture_llama, config, out=directory / "from" / "model")
    export_gguf(
        directory / "from" / "model", directory / "model.gguf", ternary_type=kind, embedding_type="f32"
    )
    return kind, directory / "model.gguf", directory / "from" / "model"


def assert_same_layer(name: str, found: Checkpoint, native: NativeModel) -> None:
    """The same bytes of trits, and the same scales, which the file has as fp16 or float32 numbers."""
    trits = [model.read(f"{name}.trits") for model in (found, native.checkpoint)]
    np.testing.assert_array_equal(*trits)
    ours, theirs = found.read(f"{name}.scales"), native.checkpoint.read(f"{name}.scales")
    unit = native.manifest["linears"][name].get("scale_unit")
    if unit is not None:
        theirs = decode_scales(theirs, unit)
    elif theirs.dtype == np.uint16:
        theirs = bfloat16_to_float32(theirs)
    if native.manifest["linears"][name]["divides"]:  # GGUF multiplies
        theirs = 1 / theirs.astype(np.float64)
    np.testing.assert_array_equal(ours.astype(np.float32), theirs.astype(np.float32))


@pytest.fixture(scope="module", params=[2, 3])
def planed(request, scripture_llama, tmp_path_factory) -> tuple[int, Path, Path]:
    """The most planes, the GGUF file, and the model it was exported from, whose layers have 1 to as many."""
    directory = tmp_path_factory.mktemp("planes")
    config = QuantizationConfig(
        group_size=256,
        max_planes=1,
        embedding_bits=16,
        layers={
            "*.q_proj": LayerOverride(planes=request.param),
            "*.down_proj": LayerOverride(planes=2),
        },
    )
    quantize_model(scripture_llama, config, out=directory / "model")
    export_gguf(directory / "model", directory / "m.gguf", embedding_type="f32")
    return request.param, directory / "m.gguf", directory / "model"


def test_planes_that_lie_side_by_side_come_back_as_one_layer(planed, tmp_path):
    most, path, original = planed
    with open_gguf(path) as found, open_native(original) as native:
        assert found.linears.keys() == native.manifest["linears"].keys()
        planes = {entry["planes"] for entry in found.linears.values()}
        assert planes == {1, 2, most}
        for name, entry in found.linears.items():
            assert entry["planes"] == native.manifest["linears"][name]["planes"]
            assert_same_layer(name, found, native)
    np.testing.assert_array_equal(logits(path), logits(original))
    imported = quantize_model(path, out=tmp_path / "model")
    assert {entry["is_lossless"] for entry in imported.manifest["linears"].values()} == {True}
    np.testing.assert_array_equal(logits(tmp_path / "model"), logits(original))
    export_gguf(tmp_path / "model", tmp_path / "again.gguf", embedding_type="f32")
    assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("activation", ["relu2", "silu"])
def test_i2_s_of_ours_comes_back_without_loss(scripture_bitnet_offline, tmp_path, activation):
    source = shutil.copytree(scripture_bitnet_offline, tmp_path / "source" / "model")
    config = json.loads((source / "config.json").read_text()) | {"hidden_act": activation}
    (source / "config.json").write_text(json.dumps(config))
    quantize_model(source, out=tmp_path / "model")
    path = tmp_path / "m.gguf"
    export_gguf(tmp_path / "model", path, ternary_type="i2_s", embedding_type="f32")
    with open_gguf(path) as found, open_native(tmp_path / "model") as native:
        for name in native.manifest["linears"]:
            assert_same_layer(name, found, native)
    assert load_model(path).config == load_model(tmp_path / "model").config
    np.testing.assert_array_equal(logits(path), logits(source))


def test_i2_s_of_a_llama_comes_back_without_loss(scripture_llama, tmp_path):
    config = QuantizationConfig(strategy="absmean", max_planes=1, embedding_bits=16)
    quantize_model(scripture_llama, config, out=tmp_path / "model")
    path = tmp_path / "m.gguf"
    export_gguf(tmp_path / "model", path, ternary_type="i2_s", embedding_type="f32")
    with open_gguf(path) as found, open_native(tmp_path / "model") as native:
        for name in native.manifest["linears"]:
            assert_same_layer(name, found, native)
    np.testing.assert_allclose(logits(path), logits(tmp_path / "model"), rtol=0, atol=1e-3)
    quantize_model(path, out=tmp_path / "imported" / "model")
    np.testing.assert_array_equal(logits(tmp_path / "imported" / "model"), logits(path))
    export_gguf(
        tmp_path / "imported" / "model", tmp_path / "again.gguf", ternary_type="i2_s", embedding_type="f32"
    )
    assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()


def test_a_text_is_judged_through_a_gguf_file(planed, held_out_text, tmp_path):
    _, path, _ = planed
    model = quantize_model(path, QuantizationConfig(validation_text=held_out_text[:900]), out=tmp_path / "m")
    report = model.validation_report
    assert report["is_broken"] is False
    assert report["perplexity_ratio"]["value"] == 1
    assert report["four_bit"] is None
    assert "norms before the output projections" in report["other_readings"]
    assert recompute_report(tmp_path / "m").differences == ()


def test_an_exported_model_comes_back_with_the_same_trits_scales_and_logits(exported):
    _, path, original = exported
    with open_gguf(path) as found, open_native(original) as native:
        assert len(found.linears) == 42
        assert found.linears.keys() == native.manifest["linears"].keys()
        for name, entry in found.linears.items():
            kept = native.manifest["linears"][name]
            assert {key: kept[key] for key in entry} == entry
            assert_same_layer(name, found, native)
    np.testing.assert_array_equal(logits(path), logits(original))


def test_an_exported_model_comes_back_with_its_config_and_its_tokenizer(exported, held_out_text):
    _, path, original = exported
    found, expected = load_model(path), load_model(original)
    assert found.config == expected.config
    text = held_out_text[:5000]
    assert found.tokenizer.encode(text) == expected.tokenizer.encode(text)
    assert found.tokenizer.bos_token_id == expected.tokenizer.bos_token_id
    assert found.tokenizer.eos_token_ids == expected.tokenizer.eos_token_ids
    assert found.tokenizer.chat_template_source == expected.tokenizer.chat_template_source
    assert found.manifest is None


@pytest.mark.parametrize("embedding", ["f32", "q8_0", "q6_k"])
def test_import_and_export_again_give_the_same_bytes(exported, tmp_path, embedding):
    kind, _, original = exported
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    export_gguf(original, first, ternary_type=kind, embedding_type=embedding)
    imported = quantize_model(first, out=tmp_path / "model")
    assert {entry["is_lossless"] for entry in imported.manifest["linears"].values()} == {True}
    export_gguf(tmp_path / "model", second, ternary_type=kind, embedding_type=embedding)
    assert first.read_bytes() == second.read_bytes()
    np.testing.assert_array_equal(logits(tmp_path / "model"), logits(first))


def test_a_gguf_file_is_exported_without_a_directory_between(exported, tmp_path):
    kind, path, _ = exported
    export_gguf(path, tmp_path / f"{path.stem}.gguf", ternary_type=kind, embedding_type="f32")
    assert (tmp_path / f"{path.stem}.gguf").read_bytes() == path.read_bytes()


def test_a_model_in_shards_is_the_model_in_one_file(exported, tmp_path):
    kind, path, _ = exported
    with GGUFFile(path) as file:
        tensors = [tensor(t.name, t.type, t.shape, file.data(t).tobytes()) for t in file.tensors.values()]
        cuts = [0, 1, 30, len(tensors)]
        for place in range(3):
            own = {"split.no": place, "split.count": 3, "split.tensors.count": len(tensors)}
            write_gguf(
                tmp_path / f"{path.stem}-{place + 1:05d}-of-00003.gguf",
                metadata=own if place else file.metadata | own,
                tensors=tensors[cuts[place] : cuts[place + 1]],
            )
    shard = tmp_path / f"{path.stem}-00002-of-00003.gguf"
    np.testing.assert_array_equal(logits(shard), logits(path))
    quantize_model(shard, out=tmp_path / path.stem)
    for source, name in ((shard, "shards"), (tmp_path / path.stem, "imported")):
        export_gguf(source, tmp_path / f"{name}.gguf", ternary_type=kind, embedding_type="f32")
        assert (tmp_path / f"{name}.gguf").read_bytes() == path.read_bytes()


def test_another_first_shard_is_another_source(exported, tmp_path):
    """The digest of a source has every shard in it, that without tensors too."""
    _, path, _ = exported
    digests = set()
    with GGUFFile(path) as file:
        tensors = [tensor(t.name, t.type, t.shape, file.data(t).tobytes()) for t in file.tensors.values()]
        for name in ("one", "other"):
            own = {"split.count": 2, "split.tensors.count": len(tensors)}
            first = {**file.metadata, **own, "split.no": 0, "general.name": name}
            write_gguf(tmp_path / "m-00001-of-00002.gguf", metadata=first, tensors=[])
            write_gguf(tmp_path / "m-00002-of-00002.gguf", metadata={**own, "split.no": 1}, tensors=tensors)
            with open_source(tmp_path / "m-00002-of-00002.gguf") as source:
                digests.add(source.sha256())
    assert len(digests) == 2


@pytest.mark.gguf
def test_every_weight_is_what_the_official_package_reads(exported):
    import gguf  # noqa: PLC0415 - the bare wheel comes without it

    _, path, _ = exported
    with open_gguf(path) as found:
        config = parse_config(found.config)
        weights = CheckpointWeights(found, config)
        theirs = {each.name: each for each in gguf.GGUFReader(path).tensors}
        for name, entry in found.linears.items():
            trits = unpack_trits(
                found.read(f"{name}.trits")[0], count=entry["out_features"] * entry["in_features"]
            )
            scales = np.repeat(found.read_float32(f"{name}.scales"), entry["group_size"], axis=1)
            ours = trits.reshape(-1, entry["in_features"]) * scales
            stored = theirs.pop(f"{gguf_name(name)}.weight")
            expected = gguf.dequantize(stored.data, stored.tensor_type)
            if name.endswith(("q_proj", "k_proj")):  # ggml rotates neighbours
                ours = ours.reshape(-1, 2, config.head_dim // 2, ours.shape[1]).swapaxes(1, 2)
            np.testing.assert_array_equal(ours.reshape(expected.shape), expected)
        outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
        for name in weights.architecture.tensors:
            stored = theirs.pop(outer.get(name) or f"{gguf_name(name.removesuffix('.weight'))}.weight")
            np.testing.assert_array_equal(found.read_float32(name), np.array(stored.data))
        assert not theirs


@dataclass(frozen=True)
class WholeTensor(GGUFTensor):
    """A tensor whose bytes are given, whatever its type: the writer knows no tail and no groups."""

    data: bytes = b""

    @property
    def nbytes(self) -> int:
        return len(self.data)


def tensor(name: str, kind: TensorType, shape: tuple[int, ...], data: np.ndarray | bytes) -> WholeTensor:
    held = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
    return WholeTensor(name, shape, kind, lambda: [held], held)


def i2_s(trits: np.ndarray, scale: np.float32) -> bytes:
    codes = (trits.reshape(-1, 4, 32) + 1).astype(np.uint8)
    packed = codes[:, 0] << 6 | codes[:, 1] << 4 | codes[:, 2] << 2 | codes[:, 3]
    return packed.tobytes() + np.float32(scale).tobytes() + bytes(28)


def q2_0(trits: np.ndarray, scale: np.float32, group: int) -> bytes:
    codes = (trits.reshape(-1, group // 4, 4) + 1).astype(np.uint8)
    packed = codes[..., 0] | codes[..., 1] << 2 | codes[..., 2] << 4 | codes[..., 3] << 6
    scales = np.full((len(packed), 1), scale, np.float16).view(np.uint8).reshape(-1, 2)
    return np.concatenate([scales, packed], axis=1).tobytes()


def shape_of(directory: Path, arch: str) -> dict[str, Value]:
    """The metadata of a model as another program writes them, under another name of the architecture."""
    config = parse_config(json.loads((directory / "config.json").read_text()))
    with open_checkpoint(directory) as checkpoint:
        return gguf_metadata(checkpoint, config, architecture=arch, ternary=TensorType.TQ2_0, planes=1)


def write_bitnet(
    path: Path, source: Path, encode: Callable[[str, np.ndarray, np.float32], Any], arch: str
) -> Path:
    """Write a packed BitNet as bitnet.cpp does, its linear layers with `encode(name, trits, scale)`."""
    tensors = []
    with open_checkpoint(source) as checkpoint:
        weights = CheckpointWeights(checkpoint, parse_config(checkpoint.config))
        for name in weights.architecture.linears:
            stored = weights.ternary(name)
            scale = bfloat16_to_float32(stored.scale)[0, 0]
            tensors.append(encode(f"{gguf_name(name)}.weight", stored.trits, scale))
        names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
        for name, shape in weights.architecture.tensors.items():
            plain = name.removesuffix(".weight")
            target = names.get(name) or f"{gguf_name(plain)}.weight"
            if target == "token_embd.weight":
                tensors.append(tensor(target, TensorType.BF16, shape, checkpoint.read(name)))
            else:
                tensors.append(tensor(target, TensorType.F32, shape, checkpoint.read_float32(name)))
    write_gguf(path, metadata=shape_of(source, arch), tensors=tensors)
    return path


def as_i2_s(name: str, trits: np.ndarray, scale: np.float32) -> WholeTensor:
    return tensor(name, TensorType.I2_S, trits.shape, i2_s(trits, scale))


@pytest.mark.parametrize("arch", ["bitnet-b1.58", "bitnet-25"])
def test_a_file_of_bitnet_cpp_computes_what_the_checkpoint_does(scripture_bitnet_offline, tmp_path, arch):
    path = write_bitnet(tmp_path / "m.gguf", scripture_bitnet_offline, as_i2_s, arch)
    found = load_model(path)
    assert (found.config.model_type, found.config.activation) == ("bitnet", "relu2")
    with GGUFFile(path) as file:
        assert {"blk.0.attn_sub_norm.weight", "blk.0.ffn_sub_norm.weight"} <= file.tensors.keys()
    np.testing.assert_array_equal(logits(path), logits(scripture_bitnet_offline))


def test_the_other_layout_of_i2_s_is_refused_before_any_work(scripture_bitnet_offline, tmp_path):
    """As bitnet.cpp packs where it is not built for x86: blocks of 64 weights in 16 bytes."""

    def encode(name: str, trits: np.ndarray, scale: np.float32) -> WholeTensor:
        codes = (trits.reshape(-1, 4, 16) + 1).astype(np.uint8)
        packed = codes[:, 0] << 6 | codes[:, 1] << 4 | codes[:, 2] << 2 | codes[:, 3]
        data = packed.tobytes() + np.float32(scale).tobytes() + bytes(28)
        return tensor(name, TensorType.I2_S, trits.shape, data)

    path = write_bitnet(tmp_path / "m.gguf", scripture_bitnet_offline, encode, "bitnet-b1.58")
    with pytest.raises(ValidationError, match="blocks of 128 though it was packed in blocks of 64"):
        quantize_model(path, out=tmp_path / "model")


def test_bitnet_of_llama_cpp_has_silu(scripture_bitnet_offline, tmp_path):
    path = write_bitnet(tmp_path / "m.gguf", scripture_bitnet_offline, as_i2_s, "bitnet")
    assert load_model(path).config.activation == "silu"


@pytest.mark.parametrize("group", [64, 128])
def test_both_groups_of_q2_0_are_imported_without_loss(scripture_bitnet_offline, tmp_path, group):
    seen = {}

    def encode(name: str, trits: np.ndarray, scale: np.float32) -> WholeTensor:
        seen[name] = trits
        return tensor(name, TensorType.Q2_0, trits.shape, q2_0(trits, scale, group))

    path = write_bitnet(tmp_path / "m.gguf", scripture_bitnet_offline, encode, "bitnet-b1.58")
    imported = quantize_model(path, out=tmp_path / "model").manifest
    assert imported["quantization"]["source_format"] == "gguf 3"
    with open_native(tmp_path / "model") as native:
        for name, entry in native.manifest["linears"].items():
            trits = seen[f"{gguf_name(name)}.weight"]
            found = unpack_trits(native.checkpoint.read(f"{name}.trits")[0], count=trits.size)
            np.testing.assert_array_equal(found.reshape(trits.shape), trits)
            assert native.checkpoint.read(f"{name}.scales").shape == (1, 1)  # all of a tensor are the same
            assert entry["is_lossless"]


def test_a_factor_beside_trits_is_their_scale(scripture_bitnet_offline, tmp_path):
    """As llama.cpp keeps BitNet: blocks with a scale of 1, and a tensor `.scale` for the layer."""
    factors = []

    def encode(name: str, trits: np.ndarray, scale: np.float32) -> WholeTensor:
        stem = name.removesuffix("weight")
        factors.append(tensor(f"{stem}scale", TensorType.F32, (1,), np.array([scale], np.float32)))
        return tensor(name, TensorType.I2_S, trits.shape, i2_s(trits, np.float32(1)))

    path = write_bitnet(tmp_path / "m.gguf", scripture_bitnet_offline, encode, "bitnet-b1.58")
    with GGUFFile(path) as file:
        tensors = [tensor(t.name, t.type, t.shape, file.data(t).tobytes()) for t in file.tensors.values()]
        write_gguf(tmp_path / "f.gguf", metadata=file.metadata, tensors=[*tensors, *factors])
    np.testing.assert_array_equal(logits(tmp_path / "f.gguf"), logits(scripture_bitnet_offline))


def write_dense(path: Path, source: Path, kind: str, **changes: Any) -> Path:
    """Write a dense llama with all its matrices in one type."""
    encode = {
        "F32": lambda values: values,
        "F16": lambda values: values.astype(np.float16),
        "BF16": lambda values: (values.view(np.uint32) >> 16).astype(np.uint16),
        "Q8_0": encode_q8_0,
        "Q6_K": encode_q6_k,
    }[kind]
    tensors = []
    with open_checkpoint(source) as checkpoint:
        config = parse_config(checkpoint.config)
        weights = CheckpointWeights(checkpoint, config)
        names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
        for name in checkpoint.tensors:
            values, plain = checkpoint.read_float32(name), name.removesuffix(".weight")
            target = names.get(name) or f"{gguf_name(plain)}.weight"
            if "attn_q" in target or "attn_k" in target:
                half = config.head_dim // 2
                values = values.reshape(-1, 2, half, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
            is_matrix = values.ndim == 2
            held = encode(np.ascontiguousarray(values)) if is_matrix else values
            tensors.append(tensor(target, TensorType[kind if is_matrix else "F32"], values.shape, held))
        assert len(weights.architecture.linears) == 42
    metadata = {k: v for k, v in (shape_of(source, "llama") | changes).items() if v is not None}
    write_gguf(path, metadata=metadata, tensors=tensors)
    return path


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_a_dense_model_computes_what_its_checkpoint_does(scripture_llama, tmp_path, kind):
    path = write_dense(tmp_path / "m.gguf", scripture_llama, kind)
    # The weights are bfloat16 numbers, which float32 holds, and fp16 too where they are not tiny.
    allowed = {"F32": 0, "F16": 1e-4, "BF16": 0}[kind]
    assert np.abs(logits(path) - logits(scripture_llama)).max() <= allowed
    with open_gguf(path) as found:
        assert found.tensors["model.layers.0.mlp.up_proj.weight"].dtype == kind


@pytest.mark.parametrize("kind", ["Q8_0", "Q6_K"])
def test_a_model_that_was_quantized_before_runs_and_says_so(scripture_llama, tmp_path, kind):
    path = write_dense(tmp_path / "m.gguf", scripture_llama, kind)
    expected, found = logits(scripture_llama), logits(path)
    assert 0 < np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()) < 0.05
    model = quantize_model(path, QuantizationConfig(max_planes=1), out=tmp_path / "model")
    assert model.manifest["quantization"]["source_rounded_tensors"] == {kind: 43}
    assert not any(entry["is_lossless"] for entry in model.manifest["linears"].values())
    assert (tmp_path / "model" / "tokenizer.json").is_file()
    load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("factor", "theta", "head_dim"),
    [(8.0, 500000.0, 128), (32.0, 500000.0, 64), (4.0, 10000.0, 32)],
    ids=["Llama 3.1", "Llama 3.2", "tiny"],
)
def test_the_scaling_of_llama_3_is_found_from_its_factors(tmp_path, scripture_llama, factor, theta, head_dim):
    declared = json.loads((scripture_llama / "config.json").read_text())
    declared = {k: v for k, v in declared.items() if not k.startswith("rope")} | {
        "head_dim": head_dim, "rope_theta": theta, "max_position_embeddings": 131072,
        "rope_scaling": LLAMA_3 | {"factor": factor, "original_max_position_embeddings": 8192},
    }  # fmt: skip
    config = parse_config(declared)
    with open_checkpoint(scripture_llama) as source:
        metadata = gguf_metadata(source, config, architecture="llama", ternary=TensorType.TQ2_0, planes=1)
    factors = rope_factors(config)
    write_gguf(tmp_path / "m.gguf", metadata=metadata, tensors=[])
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert parse_config(gguf_config(file, rope_factors=factors)).rope == config.rope
        assert "rope_scaling" not in gguf_config(file, rope_factors=np.ones_like(factors))
        with pytest.raises(ValidationError, match="no scaling of Llama 3"):
            gguf_config(file, rope_factors=factors * np.linspace(1, 2, len(factors), dtype=np.float32))
        with pytest.raises(ValidationError, match="does not fit heads"):
            gguf_config(file, rope_factors=factors[:-1])


def test_a_linear_scaling_of_rope_is_kept(scripture_llama, tmp_path):
    changes = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    path = write_dense(tmp_path / "m.gguf", scripture_llama, "BF16", **changes)
    found = load_model(path).config.rope
    assert found is not None
    assert (found.kind.value, found.factor) == ("linear", 2.0)


def test_a_theta_that_is_not_named_is_that_of_ggml(scripture_llama, tmp_path):
    path = write_dense(tmp_path / "m.gguf", scripture_llama, "BF16", **{"llama.rope.freq_base": None})
    assert load_model(path).config.rope.theta == 10000.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"general.architecture": "gemma4"}, "architecture 'gemma4' is not known"),
        ({"general.architecture": None}, "architecture 'None' is not known"),
        ({"general.type": "adapter"}, "not a whole model"),
        ({"split.count": 2}, "shards of a model are called"),
        ({"llama.expert_count": 8}, "'llama.expert_count' = '8' is not known"),
        ({"llama.attention.sliding_window": 64}, "sliding_window"),
        ({"llama.rope.scaling.type": "yarn"}, "rope scaling 'yarn'"),
        ({"llama.rope.dimension_count": 16}, "rope.dimension_count is '16' and the size of a head '32'"),
        ({"llama.attention.value_length": 64}, "value_length is '64'"),
        ({"llama.attention.head_count": 7}, "rows are no 7 heads"),
        ({"llama.attention.head_count": [8] * 6}, "heads"),
        ({"llama.block_count": 7}, "misses tensors"),
        ({"llama.block_count": 1 << 24}, "num_hidden_layers must be a whole number from 1 to 4096"),
        ({"llama.block_count": 5}, "has tensors that its config does not explain"),
        ({"llama.embedding_length": None}, "no field hidden_size"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, "no llama.attention.layer_norm_rms_epsilon"),
        ({"llama.context_length": None}, "no field max_position_embeddings"),
        ({"llama.vocab_size": 4000}, "has shape"),
        ({"llama.rope.freq_base": "high"}, "rope_theta must be a number"),
        ({"tokenizer.ggml.model": "t5"}, "'t5' cannot be rebuilt"),
        ({"tokenizer.ggml.eos_token_id": 5000}, "is no token"),
    ],
)
def test_what_is_not_known_is_refused_by_name(scripture_llama, tmp_path, changes, reason):
    path = write_dense(tmp_path / "m.gguf", scripture_llama, "BF16", **changes)
    with pytest.raises(ValidationError, match=reason):
        load_model(path)


def rewritten(path: Path, out: Path, change: Callable[[WholeTensor], list[WholeTensor]]) -> Path:
    with GGUFFile(path) as file:
        tensors = [tensor(t.name, t.type, t.shape, file.data(t).tobytes()) for t in file.tensors.values()]
        write_gguf(out, metadata=file.metadata, tensors=[new for old in tensors for new in change(old)])
    return out


def test_damage_and_strange_tensors_are_refused_by_name(exported, tmp_path):
    kind, path, _ = exported

    def refuses(change: Callable[[WholeTensor], list[WholeTensor]], reason: str) -> None:
        damaged = rewritten(path, tmp_path / "m.gguf", change)
        with pytest.raises(ValidationError, match=reason):
            load_model(damaged)

    def damage(name: str, at: int, new: bytes) -> Callable[[WholeTensor], list[WholeTensor]]:
        def change(old: WholeTensor) -> list[WholeTensor]:
            if old.name != name:
                return [old]
            data = bytearray(old.data)
            data[at : at + len(new)] = new
            return [tensor(old.name, old.type, old.shape, bytes(data))]

        return change

    target, size = "blk.3.ffn_up.weight", {"tq1_0": 54, "tq2_0": 66}[kind]
    refuses(
        damage(target, size - 2, b"\xff\x7f"), rf"'{target}': {kind.upper()}: the scale of block 0 is nan"
    )
    wrong, reason = {"tq1_0": (b"\1", "a byte of 1 stands for no 5 trits"), "tq2_0": (b"\3", "a code is 3")}[
        kind
    ]
    refuses(damage(target, 0, wrong), f"'{target}': {kind.upper()}: {reason}")
    refuses(damage("blk.0.attn_norm.weight", 0, b"\0\0\xc0\x7f"), "input_layernorm.weight': NaN or Inf")
    extra = tensor("blk.0.attn_q_norm.weight", TensorType.F32, (32,), np.ones(32, np.float32))
    refuses(
        lambda old: [old, extra] if old.name == target else [old], "'blk.0.attn_q_norm.weight': no tensor"
    )
    factor = tensor("blk.0.ffn_up.scale", TensorType.F32, (1,), np.array([2], np.float32))
    refuses(lambda old: [old, factor] if old.name == target else [old], "scales of its own and a factor")
    lonely = replace(factor, name="blk.77.ffn_up.scale")
    refuses(lambda old: [old, lonely] if old.name == target else [old], "no tensor for it to scale")
    refuses(lambda old: [] if old.name == target else [old], "misses tensors")
    refuses(
        lambda old: [tensor(old.name, old.type, old.shape[::-1], old.data)] if old.name == target else [old],
        "is stored as 256 x 768; the config asks for 768 x 256",
    )


def renamed(old: WholeTensor, name: str) -> WholeTensor:
    return tensor(name, old.type, old.shape, old.data)


def test_planes_that_do_not_belong_together_are_refused_by_name(planed, tmp_path):
    most, path, _ = planed
    first, second = "blk.3.ffn_down.weight", "blk.3.ffn_down.plane1.weight"

    def refuses(change: Callable[[WholeTensor], list[WholeTensor]], reason: str) -> None:
        with pytest.raises(ValidationError, match=reason):
            load_model(rewritten(path, tmp_path / "m.gguf", change))

    refuses(lambda old: [] if old.name == first else [old], f"'{second}': a plane of the layer before it")
    further = f"blk.3.ffn_down.plane{most}.weight"
    refuses(lambda old: [renamed(old, further)] if old.name == second else [old], f"at most {most} planes")
    unsigned = "blk.3.ffn_norm.plane1.weight"
    refuses(lambda old: [old, renamed(old, unsigned)] if old.name == second else [old], "is not ternary")
    refuses(lambda old: [] if ".plane" in old.name else [old], f"says {most} and no layer has more than 1")

    def scale(old: WholeTensor) -> list[WholeTensor]:
        if old.name != second:
            return [old]
        return [tensor(old.name, old.type, old.shape, old.data[:64] + b"\0\x3c" + old.data[66:])]

    refuses(scale, f"'{second}': TQ2_0: its scales are not those of {first}")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"llama-planes.trit_planes": None}, "trit_planes must be a number from 2 to 3"),
        ({"llama-planes.trit_planes": 4}, "trit_planes must be a number from 2 to 3"),
        ({"llama-planes.trit_plane_ratio": None}, "trit_plane_ratio must be 3"),
        ({"llama-planes.trit_plane_ratio": 2}, "trit_plane_ratio must be 3"),
    ],
)
def test_how_planes_add_up_must_be_said(planed, tmp_path, changes, reason):
    _, path, _ = planed
    with GGUFFile(path) as file:
        metadata = {k: v for k, v in (file.metadata | changes).items() if v is not None}
        write_gguf(tmp_path / "m.gguf", metadata=metadata, tensors=[])
    with pytest.raises(ValidationError, match=reason):
        load_model(tmp_path / "m.gguf")


@settings(max_examples=12)
@given(data=st.data())
def test_damage_to_what_a_file_says_is_refused_or_harmless(exported, tmp_path_factory, data):
    _, path, _ = exported
    content = bytearray(path.read_bytes())
    tokens, rest = content.index(b"tokenizer.ggml.tokens"), content.index(b"tokenizer.ggml.bos_token_id")
    with GGUFFile(path) as file:
        start = min(stored.offset for stored in file.tensors.values())
    for _ in range(data.draw(st.integers(1, 3))):
        begin, end = data.draw(st.sampled_from([(24, tokens), (tokens, start), (rest, start)]))
        content[data.draw(st.integers(begin, end - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path_factory.mktemp("damaged") / "model.gguf"
    damaged.write_bytes(bytes(content))
    with contextlib.suppress(ValidationError):
        load_model(damaged)


def test_a_file_is_known_by_its_name_or_by_how_it_begins(exported, tmp_path):
    _, path, _ = exported
    (tmp_path / "model").write_bytes(path.read_bytes())
    (tmp_path / "text.gguf").write_text("no model")
    assert is_gguf(tmp_path / "model")
    assert is_gguf(tmp_path / "text.gguf")
    assert not is_gguf(tmp_path)
    assert not is_gguf("organisation/model")
    with pytest.raises(ValidationError, match=r"text\.gguf: does not begin with GGUF"):
        load_model(tmp_path / "text.gguf")


def test_who_needs_a_file_says_so(exported):
    _, path, _ = exported
    with pytest.raises(ValidationError, match=r"give 'model\.gguf' by its own name"):
        load_model(path.parent)
