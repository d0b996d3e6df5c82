"""GGUF files of Qwen and Gemma: written with the official package, computed by transformers, exported."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tritium.errors import ValidationError
from tritium.formats.gguf import TensorType, write_gguf
from tritium.formats.gguf_shards import GGUFFiles
from tritium.model.config import parse_config
from tritium.model.export_gguf import export_gguf
from tritium.model.gguf_config import gguf_config
from tritium.model.gguf_graph import gguf_architecture
from tritium.model.gguf_model import open_gguf
from tritium.model.pretrained import load_model
from tritium.model.rope import RopeKind, RopeParameters
from tritium.quantize.config import QuantizationConfig
from tritium.quantize.pipeline import quantize_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.gguf, pytest.mark.oracle]

TOLERANCE = 1e-4
SIZES = {
    "hidden_size": 96,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 32,
    "vocab_size": 131,
    "max_position_embeddings": 96,
}
IDS = np.random.default_rng(0).integers(0, SIZES["vocab_size"], 90)


@dataclass(frozen=True)
class Family:
    """How one architecture is written: its type in transformers, fields, and its own metadata."""

    model_type: str
    arch: str
    fields: dict[str, Any]
    keys: dict[str, Any]


GEMMA = {"query_pre_attn_scalar": 32, "sliding_window": 8}
FAMILIES = {
    "qwen2": Family("qwen2", "qwen2", {"head_dim": None, "rope_theta": 1e5}, {}),
    "qwen3": Family("qwen3", "qwen3", {"rope_theta": 1e6}, {"rope.freq_base": 1e6}),
    "qwen3, tied": Family("qwen3", "qwen3", {"tie_word_embeddings": True}, {}),
    "gemma2": Family(
        "gemma2",
        "gemma2",
        {**GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 7.0},
        {
            "attention.sliding_window": 8,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 7.0,
        },
    ),
    "gemma2, silent": Family("gemma2", "gemma2", {"query_pre_attn_scalar": 32}, {}),
    "gemma3": Family(
        "gemma3_text",
        "gemma3",
        {**GEMMA, "num_hidden_layers": 7},
        {"attention.sliding_window": 8, "rope.freq_base": 1e6},
    ),
    "gemma3, scaled and bounded": Family(
        "gemma3_text",
        "gemma3",
        {
            **GEMMA,
            "num_hidden_layers": 4,
            "final_logit_softcapping": 5.0,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 123.0},
            },
        },
        {
            "attention.sliding_window": 8,
            "attention.sliding_window_pattern": [True, False] * 2,
            "final_logit_softcapping": 5.0,
            "rope.freq_base": 1e5,
            "rope.freq_base_swa": 123.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
    ),
}
FAMILIES["qwen2"].keys["rope.freq_base"] = 1e5


def fields_of(family: Family, **more: Any) -> dict[str, Any]:
    fields = SIZES | family.fields | more
    theta = fields.pop("rope_theta", None)
    if theta is not None:
        fields["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    return {name: value for name, value in fields.items() if value is not None}


def write(path: Path, state: dict[str, np.ndarray], config: Any, family: Family, kind: str) -> None:
    """Write a model as llama.cpp converts it: its names, one added to the norms of Gemma."""
    import gguf  # noqa: PLC0415 - the bare wheel comes without it

    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family.arch)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, family.arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if family.arch != "qwen2":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    for key, value in family.keys.items():
        add = {
            float: writer.add_float32,
            int: writer.add_uint32,
            str: writer.add_string,
            list: writer.add_array,
        }
        add[type(value)](f"{family.arch}.{key}", value)
    for name, values in state.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, _, suffix = name.rpartition(".")
        is_norm = name.endswith("norm.weight")
        held = values + np.float32(1) if is_norm and family.arch.startswith("gemma") else values
        wanted = gguf.GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", gguf.quantize(held, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def written(oracle: Any, tiny_models: Any, tmp_path: Path) -> Callable[..., tuple[Path, np.ndarray]]:
    """Write a family's tiny model, its matrices in one type; with what transformers computes of it."""

    def make(name: str, kind: str = "F32", **more: Any) -> tuple[Path, np.ndarray]:
        import gguf  # noqa: PLC0415 - the bare wheel comes without it

        family, torch = FAMILIES[name], oracle.torch
        source = tiny_models.dense(tmp_path / "source", family.model_type, **fields_of(family, **more))
        model, wanted = oracle.load(source), gguf.GGMLQuantizationType[kind]
        state = {}
        with torch.no_grad():
            for each, parameter in model.named_parameters():
                values = parameter.numpy().copy()
                if values.ndim > 1:
                    values = gguf.dequantize(gguf.quantize(values, wanted), wanted).reshape(values.shape)
                    parameter.copy_(torch.from_numpy(np.array(values)))
                state[each] = values
        path = tmp_path / "model.gguf"
        write(path, state, model.config, family, kind)
        return path, oracle.logits(model, IDS)[0]

    return make


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "F32") for name in FAMILIES), *(("qwen3", kind) for kind in ("F16", "BF16", "Q8_0"))]
    + [("gemma3", kind) for kind in ("BF16", "Q8_0")],
)
def test_every_logit_is_that_of_transformers(name, kind, written):
    path, expected = written(name, kind)
    found = load_model(path).generator.forward_full(IDS)
    assert np.abs(found - expected).max() < TOLERANCE
    assert np.abs(expected).max() > 1  # or the tolerance would say nothing


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("qwen3", "rope.freq_base"),
        ("gemma2", "attn_logit_softcapping"),
        ("gemma2", "final_logit_softcapping"),
        ("gemma2", "attention.sliding_window"),
        ("gemma3", "rope.freq_base"),
        ("gemma3", "attention.sliding_window"),
        ("gemma3, scaled and bounded", "final_logit_softcapping"),
        ("gemma3, scaled and bounded", "rope.freq_base_swa"),
        ("gemma3, scaled and bounded", "attention.sliding_window_pattern"),
    ],
)
def test_every_key_is_felt(name, key, written, tmp_path):
    path, expected = written(name)
    with GGUFFiles(path) as file:
        metadata = {k: v for k, v in file.metadata.items() if k != f"{FAMILIES[name].arch}.{key}"}
        metadata = {
            k: v for k, v in metadata.items() if v != [True, False] * 2
        }  # our writer has no such list
        write_gguf(tmp_path / "less.gguf", metadata=metadata, tensors=again(file))
    found = load_model(tmp_path / "less.gguf").generator.forward_full(IDS)
    assert np.abs(found - expected).max() > 100 * TOLERANCE


def again(file: GGUFFiles) -> list[Any]:
    from tritium.formats.gguf import GGUFTensor  # noqa: PLC0415 - here alone

    return [
        GGUFTensor(each.name, each.shape, each.type, lambda each=each: [file.data(each)])
        for each in file.tensors.values()
    ]


def changed(path: Path, out: Path, changes: dict[str, Any]) -> Path:
    with GGUFFiles(path) as file:
        metadata = {k: v for k, v in (file.metadata | changes).items() if v is not None}
        write_gguf(out, metadata=metadata, tensors=again(file))
    return out


def test_layers_of_gemma3_without_a_window_see_everything_by_one_rope(written, tmp_path):
    path, _ = written("gemma3")
    found = load_model(changed(path, tmp_path / "m.gguf", {"gemma3.attention.sliding_window": None})).config
    assert set(found.windows) == {None}


@pytest.mark.parametrize(("arch", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_27_billion_of_gemma_scale_their_scores_by_hidden_and_heads(arch, layers, tmp_path):
    keys = {
        "embedding_length": 4608, "feed_forward_length": 36864, "attention.head_count": 32,
        "attention.head_count_kv": 16, "attention.key_length": 128, "attention.value_length": 128,
        "context_length": 8192, "attention.layer_norm_rms_epsilon": 1e-6, "attention.sliding_window": 4096,
        "vocab_size": 256,
    }  # fmt: skip
    for count, scalar in ((layers, 144), (layers - 1, 128)):
        metadata = {"general.architecture": arch, f"{arch}.block_count": count}
        metadata |= {f"{arch}.{key}": value for key, value in keys.items()}
        write_gguf(tmp_path / "m.gguf", metadata=metadata, tensors=[])
        with GGUFFiles(tmp_path / "m.gguf") as file:
            config = parse_config(gguf_config(file, rope_factors=None))
        assert config.scaling.attention == scalar**-0.5
        assert config.windows.count(None) == count // {"gemma2": 2, "gemma3": 6}[arch]


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        (
            "gemma2",
            {"gemma2.attention.sliding_window_pattern": 0},
            "sliding_window_pattern '0' are not known",
        ),
        ("gemma2", {"gemma2.attention.sliding_window_pattern": [1, 0, 1]}, "sliding_window_pattern"),
        ("gemma2", {"gemma2.attention.sliding_window": "wide"}, "sliding_window 'wide'"),
        ("gemma2", {"gemma2.rope.freq_base_swa": 1e4}, "freq_base_swa"),
        ("gemma2", {"gemma2.final_logit_softcapping": 0.0}, "final_logit_softcapping must be"),
        ("gemma3", {"gemma3.attn_logit_softcapping": 5.0}, "attn_logit_softcapping"),
        ("gemma3", {"gemma3.block_count": "many"}, "must be whole numbers"),
        ("gemma3", {"gemma3.block_count": 1 << 23}, "must be whole numbers"),
        ("gemma3", {"gemma3.rope.freq_base_swa": "low"}, "rope_theta must be"),
        ("qwen3", {"qwen3.attention.sliding_window": 8}, "sliding_window"),
        ("qwen3", {"qwen3.pooling_type": 3}, "pooling_type"),
        ("qwen3", {"qwen3.rope.scaling.type": "yarn"}, "rope scaling 'yarn'"),
        ("qwen3", {"general.architecture": "qwen2"}, "attn_q_norm.weight': no tensor"),
    ],
)
def test_what_is_not_known_is_refused_by_name(name, changes, reason, written, tmp_path):
    path, _ = written(name)
    if "general.architecture" in changes:
        with GGUFFiles(path) as file:
            changes |= {
                key.replace("qwen3.", "qwen2."): value for key, value in file.metadata.items()
            } | changes
    with pytest.raises(ValidationError, match=reason):
        load_model(changed(path, tmp_path / "m.gguf", changes))


WIDE = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4,
    "head_dim": 32, "vocab_size": 64,
}  # fmt: skip
EXPORTED = ("qwen2", "qwen3", "qwen3, tied", "gemma2", "gemma3")


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("planes", [1, 2])
def test_a_quantized_model_leaves_and_comes_back_with_every_bit(name, planes, tiny_models, tmp_path):
    family = FAMILIES[name]
    source = tiny_models.dense(tmp_path / "source", family.model_type, **fields_of(family, **WIDE))
    config = QuantizationConfig(group_size=256, max_planes=planes, max_acceptable_loss=0.3, embedding_bits=16)
    quantize_model(source, config, out=tmp_path / "m")
    report = export_gguf(tmp_path / "m", tmp_path / "m.gguf", embedding_type="f32")
    assert report.ternary_tensors == 7 * load_model(source).config.num_layers
    found, native = load_model(tmp_path / "m.gguf"), load_model(tmp_path / "m")
    ends = {"bos_token_id": None, "eos_token_ids": ()}  # a file without a tokenizer does not name them
    assert replace(found.config, **ends) == replace(native.config, **ends)
    ids = IDS % WIDE["vocab_size"]
    expected = native.generator.forward_full(ids)
    # A norm of Gemma is stored with one added: what is taken off again may be one bit of 1 away.
    np.testing.assert_allclose(found.generator.forward_full(ids), expected, rtol=0, atol=1e-4)
    quantize_model(tmp_path / "m.gguf", out=tmp_path / "again" / "m")
    export_gguf(tmp_path / "again" / "m", tmp_path / "again.gguf", embedding_type="f32")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


@pytest.mark.parametrize("name", EXPORTED)
def test_names_and_types_are_those_of_the_official_package(name, tiny_models, tmp_path):
    import gguf  # noqa: PLC0415 - the bare wheel comes without it

    family = FAMILIES[name]
    source = tiny_models.dense(tmp_path / "source", family.model_type, **fields_of(family, **WIDE))
    quantize_model(source, QuantizationConfig(group_size=256, max_planes=1), out=tmp_path / "m")
    export_gguf(tmp_path / "m", tmp_path / "m.gguf", ternary_type="tq1_0")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == family.arch)
    config = load_model(source).config
    known = {
        gguf.TENSOR_NAMES[each].format(bid=block)
        for each in gguf.MODEL_TENSORS[arch]
        for block in range(config.num_layers)
    }
    assert {each.name.rpartition(".")[0] for each in reader.tensors} <= known
    assert reader.fields["general.architecture"].contents() == family.arch
    for key, value in family.keys.items():
        assert reader.fields[f"{family.arch}.{key}"].contents() == value
    with open_gguf(tmp_path / "m.gguf") as found:
        for each in reader.tensors:
            if not each.name.endswith("norm.weight"):
                continue
            raised = np.float32(1) if family.arch.startswith("gemma") else np.float32(0)
            ours = [
                found.read_float32(n) + raised
                for n in found.tensors
                if found.tensors[n].offset == each.data_offset
            ]
            np.testing.assert_array_equal(np.array(each.data), ours[0])


def of(name: str) -> Any:
    family = FAMILIES[name]
    return parse_config({"model_type": family.model_type, **fields_of(family)})


LOCAL = RopeParameters(theta=1e4, original_max_positions=96)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("qwen3", {"has_attention_output_bias": True}, "no bias behind attention"),
        ("qwen3", {"windows": (None, 8, 8)}, "layers of this model slide"),
        ("qwen2", {"windows": (None, 8, 8)}, "layers of this model slide"),
        ("qwen3", {"rope": RopeParameters(theta=1e4, kind=RopeKind.LLAMA3, factor=8.0)}, "llama3"),
        ("gemma2", {"tie_word_embeddings": False}, "embeddings as the head"),
        ("gemma2", {"has_attention_bias": True}, "have no biases"),
        ("gemma2", {"windows": (8, 8, 8)}, "all layers but every 2. one slide"),
        ("gemma2", {"windows": (8, None, 9)}, "by one window"),
        ("gemma2", {"windows": (None, None, None)}, "slide"),
        ("gemma3", {"windows": (8, None) * 3 + (8,)}, "all layers but every 6. one slide"),
        ("gemma3", {"local_rope": replace(LOCAL, theta=5e4)}, "have the base 10000"),
        ("gemma3", {"local_rope": replace(LOCAL, kind=RopeKind.LINEAR, factor=2.0)}, "have the base 10000"),
    ],
)
def test_what_the_graphs_lack_is_refused_by_name(name, changes, reason):
    assert gguf_architecture(of(name), ternary=TensorType.TQ2_0) == FAMILIES[name].arch
    with pytest.raises(ValidationError, match=reason) as caught:
        gguf_architecture(replace(of(name), **changes), ternary=TensorType.TQ2_0)
    assert caught.value.details["field"]
    with pytest.raises(ValidationError, match="choose tq2_0"):
        gguf_architecture(of(name), ternary=TensorType.I2_S)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("gemma2", {"attention": 0.5}, r"scales scores by 1 / sqrt\(32\)"),
        ("gemma2", {"attention_cap": None}, "bounds scores and logits always"),
        ("gemma2", {"logit_cap": None}, "bounds scores and logits always"),
        ("gemma3", {"attention": 0.5}, r"scales scores by 1 / sqrt\(32\)"),
        ("gemma3", {"logit_cap": 30.0}, "not every graph of gemma3 bounds logits"),
    ],
)
def test_scaling_that_readers_do_otherwise_is_refused_by_name(name, changes, reason):
    config = of(name)
    with pytest.raises(ValidationError, match=reason):
        gguf_architecture(
            replace(config, scaling=replace(config.scaling, **changes)), ternary=TensorType.TQ2_0
        )


def test_embeddings_that_readers_scale_by_another_number_are_told_of(tiny_models, tmp_path):
    family = FAMILIES["gemma2"]
    wide = WIDE | {"hidden_size": 768}  # whose root bfloat16 rounds to 27.75
    source = tiny_models.dense(tmp_path / "source", family.model_type, **fields_of(family, **wide))
    notes = {}
    for dtype in ("float32", "bfloat16"):
        config = json.loads((source / "config.json").read_text()) | {"dtype": dtype}
        (source / "config.json").write_text(json.dumps(config))
        quantize_model(source, QuantizationConfig(group_size=256, max_planes=1), out=tmp_path / dtype)
        notes[dtype] = export_gguf(tmp_path / dtype, tmp_path / "m.gguf").notes
    assert notes["float32"] == []
    assert len(notes["bfloat16"]) == 1
    assert "multiply embeddings by 27.7128, this model by 27.75" in notes["bfloat16"][0]
