"""The 4-bit alternative is the one that users have: the same blocks, the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.formats.gguf import TensorType
from tritium.formats.gguf_blocks import encode_q4_0, encode_q6_k, encode_q8_0
from tritium.formats.gguf_decode import dequantize
from tritium.model.layers import DenseLinear
from tritium.model.pretrained import load_model
from tritium.quantize.four_bit import (
    FourBitLinear,
    FourBitWeights,
    four_bit_bytes,
    is_dense,
    rounded_table,
    table_layout,
)
from tritium.quantize.source import open_source


def weights_of(seed: int, *, rows: int, columns: int, size: float = 1.0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (size * draw.standard_t(4, size=(rows, columns))).astype(np.float32)


def q4_0_weights(blocks: np.ndarray) -> np.ndarray:
    return dequantize(TensorType.Q4_0, blocks.reshape(-1)).reshape(len(blocks), -1)


def test_a_block_by_hand():
    codes = np.arange(32) % 16  # the largest magnitude is code 0: -8 x 0.5
    weights = (0.5 * (codes - 8)).astype(np.float32)[None]
    block = encode_q4_0(weights)
    assert block.tobytes() == bytes([0x00, 0x38, *(code | code << 4 for code in range(16))])  # fp16 0.5
    assert np.array_equal(q4_0_weights(block), weights)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 7), st.floats(1e-6, 1e3))
def test_q4_0_blocks_are_those_of_the_gguf_package(seed, rows, blocks, size):
    gguf = pytest.importorskip("gguf")
    weights = weights_of(seed, rows=rows, columns=32 * blocks, size=size)
    ours = encode_q4_0(weights)
    theirs = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_0)
    read = gguf.quants.dequantize(ours.reshape(rows, -1), gguf.GGMLQuantizationType.Q4_0)
    assert np.array_equal(q4_0_weights(ours), read)
    assert np.array_equal(
        ours.reshape(rows, blocks, 18)[:, :, :2].reshape(-1),
        theirs.reshape(rows, blocks, 18)[:, :, :2].reshape(-1),
    )
    # Theirs multiplies in float64, ours and llama.cpp in float32: a weight on the border may fall either way.
    differing = q4_0_weights(ours) != gguf.quants.dequantize(theirs, gguf.GGMLQuantizationType.Q4_0)
    assert differing.sum() <= 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4))
def test_a_weight_moves_by_at_most_one_step_and_rounding_twice_changes_nothing_more(seed, rows, blocks):
    weights = weights_of(seed, rows=rows, columns=32 * blocks)
    rounded = q4_0_weights(encode_q4_0(weights))
    step = np.abs(weights.reshape(rows, blocks, 32)).max(axis=2, keepdims=True) / 8
    moved = np.abs(weights - rounded).reshape(rows, blocks, 32)
    assert (moved <= 1.01 * step).all()


def test_zeros_tiny_and_huge_weights_stay_finite():
    weights = np.zeros((4, 32), np.float32)
    weights[1], weights[2, 3], weights[3, 0] = 1e-40, 1e38, -7.0
    rounded = q4_0_weights(encode_q4_0(weights))
    assert np.isfinite(rounded).all()
    assert (rounded[0] == 0).all()
    assert rounded[3, 0] == -7


def test_rows_that_do_not_divide_into_blocks_are_refused():
    with pytest.raises(ValidationError, match="multiple of 32"):
        encode_q4_0(np.ones((2, 40), np.float32))


@pytest.mark.parametrize(("columns", "layout"), [(512, "Q6_K"), (96, "Q8_0"), (40, "F16")])
def test_a_table_is_rounded_as_its_width_allows(columns, layout):
    table = weights_of(1, rows=50, columns=columns)
    rounded = rounded_table(table)
    assert table_layout(columns) == layout
    error = float(np.linalg.norm(rounded - table) / np.linalg.norm(table))
    assert 0 < error < {"Q6_K": 0.04, "Q8_0": 0.02, "F16": 0.001}[layout]
    if layout != "F16":
        gguf = pytest.importorskip("gguf")
        kind = gguf.GGMLQuantizationType[layout]
        encode = {"Q6_K": encode_q6_k, "Q8_0": encode_q8_0}[layout]
        assert np.array_equal(rounded, gguf.quants.dequantize(encode(table), kind))


def test_the_sizes_are_those_of_the_layouts(scripture_llama, tiny_llama):
    with open_source(scripture_llama) as source:
        sizes = four_bit_bytes(source.weights)
        linears = sum(layer.out_features * layer.in_features for layer in source.layers())
        assert sizes["Q4_0"] == linears * 18 // 32
        assert sizes["Q6_K"] == 4096 * 256 * 210 // 256
        norms = source.parameters() - linears - 4096 * 256
        assert sizes["F32"] == 4 * norms
    with open_source(tiny_llama) as source:  # rows of 40 and 72 fit no block
        assert sizes.keys() - four_bit_bytes(source.weights).keys() == {"Q4_0", "Q6_K"}


def test_the_model_of_four_bits_is_near_its_source_and_not_equal(scripture_llama):
    loaded = load_model(scripture_llama)
    tokens = np.arange(5, 45, dtype=np.int32)
    wanted = loaded.generator.forward_full(tokens)
    with open_source(scripture_llama) as source:
        model = type(loaded.generator)(loaded.config, FourBitWeights(source.weights))
    found = model.forward_full(tokens)
    assert all(isinstance(linear, FourBitLinear) for linear in model.linears().values())
    error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    assert 0 < error < 0.2


def test_rounding_each_layer_by_hand_gives_the_same_logits(scripture_llama):
    loaded = load_model(scripture_llama)
    tokens = np.arange(5, 25, dtype=np.int32)
    with open_source(scripture_llama) as source:
        model = type(loaded.generator)(loaded.config, FourBitWeights(source.weights))
        by_hand = type(loaded.generator)(loaded.config, FourBitWeights(source.weights))
        for name in by_hand.linears():
            rounded = q4_0_weights(encode_q4_0(source.weights.array(f"{name}.weight")))
            by_hand.set_linear(name, DenseLinear(rounded))
    assert np.allclose(model.forward_full(tokens), by_hand.forward_full(tokens), atol=1e-4)


def test_only_a_dense_source_has_weights_to_round(scripture_bitnet_offline, scripture_llama):
    ternary, dense = load_model(scripture_bitnet_offline), load_model(scripture_llama)
    assert (is_dense(ternary), is_dense(dense)) == (False, True)
