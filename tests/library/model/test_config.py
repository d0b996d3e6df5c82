"""Configs: what is known is read exactly, what is not known is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import TernaryConvention
from tritium.model.architecture import architecture_for
from tritium.model.config import parse_config
from tritium.model.family import FAMILIES
from tritium.model.rope import RopeKind, RopeParameters
from tritium.model.scaling import Scaling

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}
GEMMA2 = {"head_dim": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _with(**fields: Any) -> dict[str, Any]:
    return {**LLAMA, **fields}


def _bert(**fields: Any) -> dict[str, Any]:
    sizes = {
        key: LLAMA[key] for key in LLAMA if key not in {"model_type", "architectures", "num_key_value_heads"}
    }
    return {**sizes, "model_type": "bert", "architectures": ["BertModel"], **fields}


def test_defaults_are_those_of_transformers() -> None:
    llama = parse_config(LLAMA)
    assert (llama.head_dim, llama.norm_eps, llama.activation, llama.tie_word_embeddings) == (
        16,
        1e-6,
        "silu",
        False,
    )
    assert llama.rope == RopeParameters(theta=10000.0, original_max_positions=128)
    bitnet = parse_config(_with(model_type="bitnet", architectures=["BitNetForCausalLM"]))
    assert bitnet.rope is not None
    assert (bitnet.rope.theta, bitnet.norm_eps, bitnet.activation) == (500000.0, 1e-5, "relu2")
    bert = parse_config(_bert())
    assert (bert.norm_eps, bert.activation, bert.type_vocab_size, bert.rope) == (1e-12, "gelu", 2, None)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"model_type": None}, "None"),
        ({"architectures": ["MixtralForCausalLM"]}, "MixtralForCausalLM"),
        ({"architectures": [["LlamaForCausalLM"]]}, "LlamaForCausalLM"),
        ({"model_type": "bitnet_latent"}, "bitnet_latent"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "mscale": 1.0}}, "mscale"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor"),
        ({"rope_parameters": "default"}, "rope_parameters"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"rope_theta": 1e-320}, "rope_theta"),
        ({"rope_theta": 1e308}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": 1e5}, "rope_theta": 1e4}, "rope_theta"),
        ({"rope_scaling": {"type": "linear", "factor": 1e-320}}, "factor"),
        ({"rope_scaling": {"type": "linear", "factor": 1e308}}, "factor"),
        ({"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 0.5}}, "original_max_position"),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": 5}, "rope_scaling"),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"type": "yarn"}}, "yarn"),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": LLAMA3}, "rope_scaling and"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"quantization_config": {"quant_method": "bitnet", "linear_class": "quadlinear"}}, "quadlinear"),
        (
            {"quantization_config": {"quant_method": "bitnet", "modules_to_not_convert": "x"}},
            "modules_to_not_convert",
        ),
    ],
)
def test_what_may_change_the_mathematics_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        parse_config(_with(**fields))


@pytest.mark.parametrize(
    ("model_type", "fields", "named"),
    [
        ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types"),
        ("mistral", {"attention_bias": True}, "attention_bias"),
        ("mistral", {"sliding_window": 0}, "sliding_window"),
        ("mistral", {"sliding_window": "4096"}, "sliding_window"),
        ("mistral", {"hidden_act": "relu2"}, "relu2"),
        ("mistral", {"architectures": ["MixtralForCausalLM"]}, "MixtralForCausalLM"),
        ("qwen2", {"attention_bias": True}, "attention_bias"),
        ("qwen2", {"use_mrope": True}, "use_mrope"),
        ("qwen2", {"use_sliding_window": 1}, "use_sliding_window"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen2", {"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ("qwen2", {"layer_types": ["full_attention", ["sliding_attention"]]}, "Layer type"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "no sliding window"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": -1}, "max_window_layers"),
        ("qwen3", {}, "head_dim"),
        ("qwen3", {"head_dim": 16, "num_key_value_heads": None}, "num_key_value_heads"),
        ("qwen3", {"head_dim": 16, "num_experts": 8}, "num_experts"),
        ("gemma2", {**GEMMA2, "attn_logit_softcapping": 0}, "attn_logit_softcapping"),
        ("gemma2", {**GEMMA2, "attn_logit_softcapping": 1e-320}, "attn_logit_softcapping"),
        ("gemma2", {**GEMMA2, "attn_logit_softcapping": True}, "attn_logit_softcapping"),
        ("gemma2", {**GEMMA2, "hidden_activation": "gelu"}, "hidden_activation|gelu"),
        ("gemma2", {**GEMMA2, "hidden_act": "gelu"}, "gelu"),
        ("gemma2", {**GEMMA2, "query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ("gemma2", {**GEMMA2, "final_logit_softcapping": "30"}, "final_logit_softcapping"),
        ("gemma2", {**GEMMA2, "dtype": "float8_e4m3fn"}, "float8"),
        ("gemma2", {**GEMMA2, "sliding_window": None}, "no sliding window"),
        ("gemma2", {**GEMMA2, "sliding_window": 32768, "sliding_window_size": 4096}, "sliding_window_size"),
        ("gemma3_text", {"head_dim": 16, "sliding_window_size": 4096}, "sliding_window_size"),
        ("gemma2", {**GEMMA2, "rope_local_base_freq": 1e4}, "rope_local_base_freq"),
        ("gemma3_text", {"head_dim": 16, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3_text", {"head_dim": 16, "use_bidirectional_attention": True}, "use_bidirectional"),
        ("gemma3_text", {"head_dim": 16, "rope_parameters": {"rope_theta": 1e4}}, "rope_parameters"),
        ("gemma3_text", {"head_dim": 16, "rope_parameters": {"full_attention": 5}}, "rope_parameters"),
        ("gemma3_text", {"head_dim": 16, "rope_local_base_freq": 0}, "rope_theta"),
        ("gemma3_text", {"head_dim": 16, "sliding_window_pattern": 0}, "sliding_window_pattern"),
        (
            "gemma3_text",
            {"head_dim": 16, "sliding_window_pattern": 2, "_sliding_window_pattern": 6},
            "sliding_window_pattern",
        ),
        ("gemma3", {}, "gemma3"),
    ],
)
def test_what_a_family_does_not_know_is_refused_by_name(
    model_type: str, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValidationError, match=named):
        parse_config(_with(model_type=model_type, **{"architectures": None, **fields}))


@pytest.mark.parametrize(
    ("model_type", "fields", "windows"),
    [
        ("llama", {}, (None, None)),
        ("mistral", {}, (4096, 4096)),  # what a config without the field means to transformers
        ("mistral", {"sliding_window": None}, (None, None)),
        ("mistral", {"sliding_window": 7}, (7, 7)),
        ("qwen2", {"sliding_window": 7, "max_window_layers": 0}, (None, None)),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 7}, (None, None)),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}, (None, 7)),
        ("qwen2", {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, (None, None)),
        (
            "qwen3",
            {
                "head_dim": 16,
                "use_sliding_window": True,
                "sliding_window": 7,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (7, None),
        ),
    ],
)
def test_windows_are_those_of_transformers(
    model_type: str, fields: dict[str, Any], windows: tuple[int | None, ...]
) -> None:
    config = parse_config(_with(model_type=model_type, architectures=None, **fields))
    assert config.windows == windows


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({}, (9, 9, 9, 9, 9, None, 9)),
        ({"sliding_window_pattern": 3}, (9, 9, None, 9, 9, None, 9)),
        ({"_sliding_window_pattern": 1}, (None,) * 7),
        ({"model_type": "gemma2"}, (9, None, 9, None, 9, None, 9)),
    ],
)
def test_gemmas_layers_slide_in_their_pattern(
    fields: dict[str, Any], windows: tuple[int | None, ...]
) -> None:
    known = {"model_type": "gemma3_text", "architectures": None, "head_dim": 16, "num_hidden_layers": 7}
    assert parse_config(_with(**{**known, "sliding_window": 9, **fields})).windows == windows


@pytest.mark.parametrize("size", ["2b", "9b", "27b"])
def test_gemma_2_is_read_as_published(size: str) -> None:
    """The fields and the values of google/gemma-2-2b, -9b and -27b."""
    head_dim, scalar, sizes = {
        "2b": (256, 256, (2304, 9216, 8, 26, 4)),
        "9b": (256, 256, (3584, 14336, 16, 42, 8)),
        "27b": (128, 144, (4608, 36864, 32, 46, 16)),
    }[size]
    hidden, inner, heads, layers, kv_heads = sizes
    published = {
        "architectures": ["Gemma2ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0,
        "bos_token_id": 2,
        "cache_implementation": "hybrid",
        "eos_token_id": 1,
        "final_logit_softcapping": 30.0,
        "head_dim": head_dim,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": inner,
        "max_position_embeddings": 8192,
        "model_type": "gemma2",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "pad_token_id": 0,
        "query_pre_attn_scalar": scalar,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "torch_dtype": "float32",
        "transformers_version": "4.42.0.dev0",
        "use_cache": True,
        "vocab_size": 256000,
    }
    if size != "2b":
        published["sliding_window_size"] = 4096
    if size == "27b":
        published["_attn_implementation"] = "eager"
    config = parse_config(published)
    assert config.scaling == Scaling(scalar**-0.5, float(np.float32(hidden**0.5)), 50.0, 30.0)
    assert config.windows == (4096, None) * (layers // 2)
    assert config.tie_word_embeddings


def test_both_spellings_of_gemmas_two_ropes_mean_the_same() -> None:
    known = {"model_type": "gemma3_text", "architectures": None, "head_dim": 16}
    old = parse_config(
        _with(
            **known,
            rope_theta=1e6,
            rope_local_base_freq=5e3,
            rope_scaling={"rope_type": "linear", "factor": 8.0},
        )
    )
    full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    new = parse_config(
        _with(
            **known,
            rope_parameters={
                "full_attention": full,
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
            },
        )
    )
    assert old == new
    assert old.rope is not None
    assert old.local_rope is not None
    assert (old.rope.kind, old.rope.theta, old.local_rope.kind) == (RopeKind.LINEAR, 1e6, RopeKind.DEFAULT)
    assert old.local_rope.theta == 5e3
    plain = parse_config(_with(**known))
    assert plain.rope is not None
    assert plain.local_rope is not None
    assert (plain.rope.theta, plain.local_rope.theta) == (1e6, 1e4)
    assert plain.tie_word_embeddings


@pytest.mark.parametrize(
    ("hidden", "fields", "scale"),
    [  # 55.4256 and 33.9411, the square roots, in the numbers that each dtype has
        (3072, {"torch_dtype": "bfloat16"}, 55.5),
        (1152, {"dtype": "bfloat16"}, 34.0),
        (1152, {"dtype": "float16"}, 33.9375),
        (1152, {}, float(np.float32(1152**0.5))),
        (2304, {"dtype": "bfloat16"}, 48.0),
    ],
)
def test_gemmas_embeddings_are_scaled_by_a_number_of_their_dtype(
    hidden: int, fields: dict[str, Any], scale: float
) -> None:
    known = {"model_type": "gemma2", "architectures": None, **GEMMA2, "hidden_size": hidden}
    assert parse_config(_with(**known, **fields)).scaling.embedding == scale


def test_qwen2_has_biases_on_queries_keys_and_values_alone() -> None:
    linears = architecture_for(parse_config(_with(model_type="qwen2", architectures=None))).linears
    biased = {name.rsplit(".", 1)[1] for name, shape in linears.items() if shape.has_bias}
    assert biased == {"q_proj", "k_proj", "v_proj"}


@pytest.mark.parametrize(
    "fields",
    [{"is_decoder": True}, {"position_embedding_type": "relative_key"}, {"add_cross_attention": True}],
)
def test_a_bert_that_is_no_plain_encoder_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        parse_config(_bert(**fields))


@pytest.mark.parametrize(
    "name", ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"]
)
@pytest.mark.parametrize("value", [0, -1, 1 << 63, 2.5, "64", True, None, [64]])
def test_a_size_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        parse_config(_with(**{name: value}))


def test_more_layers_than_any_model_has_are_refused_before_they_are_listed() -> None:
    with pytest.raises(ValidationError, match="num_hidden_layers must be a whole number from 1 to 4096"):
        parse_config(_with(num_hidden_layers=1 << 24))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 15}, "head_dim"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"attention_bias": "yes"}, "attention_bias"),
        ({"eos_token_id": [2, -1]}, "eos_token_id"),
        ({"bos_token_id": 1.5}, "bos_token_id"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        parse_config(_with(**fields))


def test_both_spellings_of_rope_mean_the_same() -> None:
    old = parse_config(_with(rope_theta=5e5, rope_scaling=LLAMA3))
    new = parse_config(_with(rope_parameters={**LLAMA3, "rope_theta": 5e5}))
    assert old == new
    assert old.rope is not None
    assert (old.rope.kind, old.rope.theta, old.rope.original_max_positions) == (RopeKind.LLAMA3, 5e5, 64)


def test_harmless_and_empty_fields_are_accepted() -> None:
    config = parse_config(
        _with(
            use_cache=True, torch_dtype="bfloat16", sliding_window=None, eos_token_id=[2, 3], bos_token_id=1
        )
    )
    assert (config.eos_token_ids, config.bos_token_id) == ((2, 3), 1)


def test_a_ternary_config_names_its_convention_and_what_stays_dense() -> None:
    config = parse_config(
        _with(
            quantization_config={
                "quant_method": "bitnet",
                "linear_class": "autobitlinear",
                "quantization_mode": "online",
                "modules_to_not_convert": ["lm_head", "o_proj", "model.layers.1.mlp"],
            }
        )
    )
    assert config.ternary.convention is TernaryConvention.AUTOBITLINEAR_ONLINE
    names = architecture_for(config).linears
    dense = {name for name in names if not config.ternary.converts(name)}
    assert dense == {
        "model.layers.0.self_attn.o_proj",
        "model.layers.1.self_attn.o_proj",
        *(f"model.layers.1.mlp.{part}_proj" for part in ("gate", "up", "down")),
    }


@given(
    st.sampled_from(sorted(FAMILIES)),
    st.dictionaries(
        st.sampled_from(
            sorted(
                {*LLAMA, "quantization_config", *(name for each in FAMILIES.values() for name in each.fields)}
            )
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2)
            ),
            max_leaves=4,
        ),
        max_size=4,
    ),
)
def test_any_json_is_read_or_refused_and_never_crashes(family: str, fields: dict[str, Any]) -> None:
    types = FAMILIES[family].model_types or {family}
    known = {"model_type": min(types), "architectures": [min(FAMILIES[family].classes)], "head_dim": 16}
    if family == "bert":
        del known["head_dim"]
    try:
        config = parse_config(_with(**{**known, **fields}))
    except ValidationError:
        return
    assert config.num_heads % config.num_kv_heads == 0
