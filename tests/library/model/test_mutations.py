"""The comparison with the oracle is worth something: each classic mistake makes it fail by far.

Every mistake here has shipped somewhere: finite, plausible, wrong output. A right model differs from
transformers only after an activation that lay on a tie of rounding, and then by little; a mutant must not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tritium.kernels import cpu, packing
from tritium.model import weights
from tritium.model.bitnet import BitNetModel
from tritium.model.layers import RMSNorm, TernaryLinear
from tritium.model.llama import LlamaModel
from tritium.model.pretrained import load_model
from tritium.model.rope import RopeParameters, inverse_frequencies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritium.model.decoder import DecoderModel

pytestmark = pytest.mark.oracle

LARGEST_TIE = 1e-3  # of the integer grid
LARGEST_MEDIAN = 0.05  # of the logits' differences, after ties
LAYER = "model.layers.0.self_attn.o_proj"

# What a layer that runs was made from, by its identity.
PORTABLE: dict[int, tuple[cpu.PreparedWeight, cpu.TernaryWeight]] = {}


@pytest.fixture(autouse=True)
def _remember_portable_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def remember(weight: cpu.TernaryWeight, *, threads: int) -> cpu.PreparedWeight:
        prepared = cpu.prepare(weight, threads=threads)
        PORTABLE[id(prepared)] = prepared, weight
        return prepared

    PORTABLE.clear()
    monkeypatch.setattr(weights, "prepare", remember)


def _replace_weight(model: DecoderModel, name: str, **changes: Any) -> None:
    linear = model.linears()[name]
    assert isinstance(linear, TernaryLinear)
    portable = replace(PORTABLE[id(linear.weight)][1], **changes)
    model.set_linear(name, replace(linear, weight=cpu.prepare(portable)))


def _weight(model: DecoderModel, name: str) -> cpu.TernaryWeight:
    linear = model.linears()[name]
    assert isinstance(linear, TernaryLinear)
    return PORTABLE[id(linear.weight)][1]


def _trits(model: DecoderModel, name: str) -> np.ndarray:
    weight = _weight(model, name)
    return packing.from_compute_layout(weight.planes[0], count=weight.in_features)


def _replace_trits(model: DecoderModel, name: str, trits: np.ndarray) -> None:
    _replace_weight(model, name, planes=packing.to_compute_layout(np.ascontiguousarray(trits))[None])


def _with_activation(model: DecoderModel) -> None:
    model.config = replace(model.config, activation="silu" if model.config.activation == "relu2" else "relu2")


def _with_scale_inverted(model: DecoderModel) -> None:
    for name in model.linears():
        _replace_weight(model, name, divides=not _weight(model, name).divides)


def _with_one_scale_inverted(model: DecoderModel) -> None:
    _replace_weight(model, LAYER, divides=not _weight(model, LAYER).divides)


def _without_attention_sub_norm(model: DecoderModel) -> None:
    model.normalise_attention = MethodType(LlamaModel.normalise_attention, model)  # type: ignore[method-assign]


def _without_feed_forward_sub_norm(model: DecoderModel) -> None:
    model.normalise_feed_forward = MethodType(LlamaModel.normalise_feed_forward, model)  # type: ignore[method-assign]


def _with_trits(model: DecoderModel, change: Callable[[np.ndarray], np.ndarray]) -> None:
    _replace_trits(model, LAYER, change(_trits(model, LAYER)))


def _with_a_transposed_layer(model: DecoderModel) -> None:
    _with_trits(model, lambda trits: trits.T)


def _with_adjacent_rows_instead_of_strided_ones(model: DecoderModel) -> None:
    _with_trits(model, lambda trits: trits.reshape(4, -1, trits.shape[1]).swapaxes(0, 1).reshape(trits.shape))


def _with_columns_in_blocks_of_64(model: DecoderModel) -> None:
    _with_trits(model, lambda trits: trits.reshape(-1, 2, 2, 64).swapaxes(1, 2).reshape(trits.shape))


def _with_another_theta(model: DecoderModel) -> None:
    other = inverse_frequencies(RopeParameters(theta=5e5), head_dim=model.config.head_dim)
    model.inverse_frequencies = [other] * model.config.num_layers


def _with_rope_in_neighbouring_pairs(model: DecoderModel) -> None:
    # The other convention pairs (2i, 2i + 1): the same as permuting the rows of the query projection alone.
    name = "model.layers.0.self_attn.q_proj"
    size = model.config.head_dim
    trits = _trits(model, name)
    order = np.arange(size).reshape(2, -1).T.ravel()
    _replace_trits(model, name, trits.reshape(-1, size, trits.shape[1])[:, order].reshape(trits.shape))


def _with_key_heads_in_the_wrong_order(model: DecoderModel) -> None:
    name = "model.layers.0.self_attn.k_proj"
    trits = _trits(model, name)
    heads = trits.reshape(model.config.num_kv_heads, -1, trits.shape[1])
    _replace_trits(model, name, np.roll(heads, 1, axis=0).reshape(trits.shape))


def _without_the_final_norm(model: DecoderModel) -> None:
    model.final_norm = RMSNorm(np.ones_like(model.final_norm.weight), eps=model.final_norm.eps)


MUTATIONS = [
    _with_activation,
    _with_scale_inverted,
    _with_one_scale_inverted,
    _without_attention_sub_norm,
    _without_feed_forward_sub_norm,
    _with_a_transposed_layer,
    _with_adjacent_rows_instead_of_strided_ones,
    _with_columns_in_blocks_of_64,
    _with_another_theta,
    _with_rope_in_neighbouring_pairs,
    _with_key_heads_in_the_wrong_order,
    _without_the_final_norm,
]


@dataclass(frozen=True)
class Expected:
    """What transformers computes for some tokens."""

    token_ids: np.ndarray
    logits: np.ndarray
    inputs: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def expected(oracle: Any, scripture_bitnet_bitlinear: Path, held_out_text: str) -> Expected:
    tokenizer = load_model(scripture_bitnet_bitlinear).tokenizer
    token_ids = np.array(tokenizer.encode(held_out_text[:400])[:80])
    model = oracle.load(scripture_bitnet_bitlinear)
    recording = oracle.record(model)
    logits = oracle.logits(model, token_ids)[0]
    recording.stop()
    return Expected(token_ids, logits, recording.inputs(0))


def _agrees(model: DecoderModel, expected: Expected, trace: Any) -> bool:
    divergence = trace.first_divergence(trace.observed_inputs(model, expected.token_ids), expected.inputs)
    distances = np.abs(model.forward_full(expected.token_ids) - expected.logits).max(axis=1)
    is_tie = divergence is None or divergence.largest_distance < LARGEST_TIE
    return is_tie and float(np.median(distances)) < LARGEST_MEDIAN


def test_the_right_model_agrees(scripture_bitnet_bitlinear: Path, expected: Expected, trace: Any) -> None:
    assert _agrees(load_model(scripture_bitnet_bitlinear).generator, expected, trace)


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__.strip("_"))
def test_a_mistake_is_caught(
    mutate: Callable[[DecoderModel], None], scripture_bitnet_bitlinear: Path, expected: Expected, trace: Any
) -> None:
    model = load_model(scripture_bitnet_bitlinear).generator
    assert isinstance(model, BitNetModel)
    mutate(model)
    assert not _agrees(model, expected, trace)
    # And not by a hair: far outside what ties do to a right model.
    distances = np.abs(model.forward_full(expected.token_ids) - expected.logits).max(axis=1)
    assert np.median(distances) > 10 * LARGEST_MEDIAN


def test_rounding_half_away_from_zero_instead_of_to_even_is_caught_in_one_layer(oracle: Any) -> None:
    from transformers.integrations.bitnet import ActQuant  # noqa: PLC0415 - the bare wheel has none

    x = np.array([[127.0, 0.5, 1.5, -0.5, 2.5, -2.5]], dtype=np.float32)
    q, scale = cpu.quantize_activations(x)
    theirs = ActQuant.apply(oracle.torch.tensor(x)).numpy()
    np.testing.assert_array_equal(q[:, : x.shape[1]] / scale[:, None], theirs)
    away = np.sign(x) * np.floor(np.abs(x) + 0.5)
    assert (away != theirs).any()
