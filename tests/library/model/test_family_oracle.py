"""Every decoder beside llama against transformers in float32, and that classic mistakes are far from it."""

from __future__ import annotations

from dataclasses import replace
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tritium.model.decoder import DecoderModel
from tritium.model.layers import DenseLinear
from tritium.model.pretrained import load_model
from tritium.model.rope import RopeParameters, inverse_frequencies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.oracle

TOLERANCE = 1e-4
SIZES = {
    "hidden_size": 60,
    "intermediate_size": 77,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "vocab_size": 131,
    "max_position_embeddings": 96,
}
WINDOW = 8
QWEN_WINDOWS = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
ALTERNATE = {**QWEN_WINDOWS, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, tied, wide heads": (
        "mistral",
        {"sliding_window": None, "tie_word_embeddings": True, "head_dim": 16},
    ),
    "qwen2": ("qwen2", {}),
    "qwen2, tied, other theta": (
        "qwen2",
        {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3, biases, one key head": (
        "qwen3",
        {"head_dim": 10, "attention_bias": True, "num_key_value_heads": 1},
    ),
}
# A cap of 5 is felt by all scores of random queries and keys, one of 50 by the largest.
GEMMA2 = {"head_dim": 16, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 20}
GEMMA3 = {"head_dim": 16, "query_pre_attn_scalar": 20}
GEMMA3_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 123.0},
}
MODELS |= {
    "gemma2": ("gemma2", {**GEMMA2, "final_logit_softcapping": 5.0}),
    "gemma2, as published": ("gemma2", {"head_dim": 16}),
    "gemma2, untied, no bound": (
        "gemma2",
        {
            **GEMMA2,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "tie_word_embeddings": False,
        },
    ),
    "gemma3": ("gemma3_text", GEMMA3),
    "gemma3, bounded, every second layer": (
        "gemma3_text",
        {
            **GEMMA3,
            "rope_parameters": GEMMA3_ROPES,
            "final_logit_softcapping": 5.0,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}
MODELS |= {
    "mistral, sliding": ("mistral", {"sliding_window": WINDOW}),
    "mistral, sliding beyond a tile": ("mistral", {"sliding_window": 70}),
    "qwen2, sliding from the second layer on": ("qwen2", QWEN_WINDOWS),
    "qwen2, one layer slides": ("qwen2", ALTERNATE),
    "qwen3, sliding from the second layer on": ("qwen3", {**QWEN_WINDOWS, "head_dim": 16}),
    "gemma2, sliding": ("gemma2", {**GEMMA2, "sliding_window": WINDOW}),
    "gemma3, sliding": (
        "gemma3_text",
        {**GEMMA3, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
}
MODELS["gemma3, sliding"][1]["num_hidden_layers"] = 4


def _tokens(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, SIZES["vocab_size"], count)


@pytest.mark.parametrize("name", MODELS)
def test_every_logit_is_that_of_transformers(name: str, oracle: Any, tiny_models: Any, tmp_path: Any) -> None:
    model_type, fields = MODELS[name]
    path = tiny_models.dense(tmp_path / "model", model_type, **(SIZES | fields))
    expected = oracle.logits(oracle.load(path), _tokens(90))[0]
    actual = load_model(path).generator.forward_full(_tokens(90))
    assert np.abs(actual - expected).max() < TOLERANCE
    assert np.abs(expected).max() > 1  # or the tolerance would say nothing


def _without_head_norms(model: DecoderModel) -> None:
    model.normalise_heads = MethodType(DecoderModel.normalise_heads, model)  # type: ignore[method-assign]


def _with_one_norm_over_all_heads(model: Any) -> None:
    for norms, heads in (
        (model._query_norms, model.config.num_heads),
        (model._key_norms, model.config.num_kv_heads),
    ):
        norms[:] = [replace(norm, weight=np.tile(norm.weight, heads)) for norm in norms]
    model.observer = lambda _name, _x: None  # keeps it from a plan, which refuses such a norm


def _with_head_norms_exchanged(model: Any) -> None:
    model._query_norms, model._key_norms = model._key_norms, model._query_norms


def _with_scores_scaled_by_another_head_size(model: Any) -> None:
    wrong = model.config.hidden_size // model.config.num_heads
    factor = np.float32((model.config.head_dim / wrong) ** 0.5)
    model._query_norms = [replace(norm, weight=norm.weight * factor) for norm in model._query_norms]


def _with_another_theta(model: DecoderModel) -> None:
    other = inverse_frequencies(RopeParameters(theta=1e3), head_dim=model.config.head_dim)
    model.inverse_frequencies = [other] * model.config.num_layers


def _without_a_bias(model: DecoderModel, part: str) -> None:
    name = f"model.layers.0.self_attn.{part}_proj"
    linear = model.linears()[name]
    assert isinstance(linear, DenseLinear)
    assert linear.bias is not None
    model.set_linear(name, replace(linear, bias=None))


def _without_windows(model: DecoderModel) -> None:
    model.config = replace(model.config, windows=(None,) * model.config.num_layers)


def _with_windows_one_longer(model: DecoderModel) -> None:
    windows = tuple(None if window is None else window + 1 for window in model.config.windows)
    model.config = replace(model.config, windows=windows)


def _with_windows_in_the_other_layers(model: DecoderModel) -> None:
    windows = tuple(WINDOW if window is None else None for window in model.config.windows)
    model.config = replace(model.config, windows=windows)


def _without_the_bias_of_queries(model: DecoderModel) -> None:
    _without_a_bias(model, "q")


def _without_the_bias_of_values(model: DecoderModel) -> None:
    _without_a_bias(model, "v")


def _with_layers_that_slide_turned_by_the_other_base(model: DecoderModel) -> None:
    model.inverse_frequencies = [model.inverse_frequencies[1]] * model.config.num_layers


def _with_plain_embeddings(model: Any) -> None:
    model._embedding = replace(model._embedding, scale=1.0)


def _with_norm_weights_as_stored(model: Any) -> None:
    for norms in (model._input_norms, model._feed_forward_norms):
        norms[:] = [replace(norm, weight=norm.weight - np.float32(1)) for norm in norms]


def _without_norms_after_attention(model: DecoderModel) -> None:
    model.after_attention = MethodType(DecoderModel.after_attention, model)  # type: ignore[method-assign]


def _without_norms_after_the_feed_forward_part(model: DecoderModel) -> None:
    model.after_feed_forward = MethodType(DecoderModel.after_feed_forward, model)  # type: ignore[method-assign]


def _with_scores_scaled_by_the_head_size(model: DecoderModel) -> None:
    scaling = replace(model.config.scaling, attention=model.config.head_dim**-0.5)
    model.config = replace(model.config, scaling=scaling)


def _with_unbounded_logits(model: DecoderModel) -> None:
    model.config = replace(model.config, scaling=replace(model.config.scaling, logit_cap=None))


def _with_unbounded_scores(model: DecoderModel) -> None:
    model.config = replace(model.config, scaling=replace(model.config.scaling, attention_cap=None))


def _with_the_caps_exchanged(model: DecoderModel) -> None:
    scaling = model.config.scaling
    exchanged = replace(scaling, attention_cap=scaling.logit_cap, logit_cap=scaling.attention_cap)
    model.config = replace(model.config, scaling=exchanged)


def _with_silu(model: DecoderModel) -> None:
    model.config = replace(model.config, activation="silu")


MUTATIONS: list[tuple[str, Callable[[Any], None]]] = [
    ("qwen3", _without_head_norms),
    ("qwen3", _with_one_norm_over_all_heads),
    ("qwen3", _with_head_norms_exchanged),
    ("qwen3", _with_scores_scaled_by_another_head_size),
    ("qwen3", _with_another_theta),
    ("mistral", _with_another_theta),
    ("qwen2", _without_the_bias_of_queries),
    ("qwen2", _without_the_bias_of_values),
    ("mistral, sliding", _without_windows),
    ("mistral, sliding", _with_windows_one_longer),
    ("qwen2, one layer slides", _without_windows),
    ("qwen2, one layer slides", _with_windows_in_the_other_layers),
    ("gemma3, sliding", _without_windows),
    ("gemma3, sliding", _with_windows_one_longer),
    ("gemma3, sliding", _with_windows_in_the_other_layers),
    ("gemma3, bounded, every second layer", _with_layers_that_slide_turned_by_the_other_base),
    ("gemma3", _without_head_norms),
    *(
        (name, mutate)
        for name in ("gemma2", "gemma3")
        for mutate in (
            _with_plain_embeddings,
            _with_norm_weights_as_stored,
            _without_norms_after_attention,
            _without_norms_after_the_feed_forward_part,
            _with_scores_scaled_by_the_head_size,
            _with_silu,
        )
    ),
    ("gemma2", _with_unbounded_logits),
    ("gemma2", _with_unbounded_scores),
    ("gemma2, sliding", _with_the_caps_exchanged),
]


@pytest.fixture(scope="module")
def mutable(oracle: Any, tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a model by name: its directory, and what transformers computes."""
    found: dict[str, tuple[Path, np.ndarray]] = {}

    def get(name: str) -> tuple[Path, np.ndarray]:
        if name not in found:
            model_type, fields = MODELS[name]
            path = tiny_models.dense(
                tmp_path_factory.mktemp("mutable") / "model", model_type, **(SIZES | fields)
            )
            found[name] = path, oracle.logits(oracle.load(path), _tokens(40))[0]
        return found[name]

    return get


@pytest.mark.parametrize(("name", "mutate"), MUTATIONS)
def test_a_mistake_is_far_outside_the_tolerance(
    name: str, mutate: Callable[[DecoderModel], None], mutable: Any
) -> None:
    path, expected = mutable(name)
    model = load_model(path).generator
    mutate(model)
    model._recorded = None
    distances = np.abs(model.forward_full(_tokens(40)) - expected).max(axis=1)
    assert np.median(distances) > 100 * TOLERANCE
