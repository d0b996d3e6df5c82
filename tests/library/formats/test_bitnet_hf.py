from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tritium.errors import ValidationError
from tritium.formats.bitnet_hf import (
    TernaryConvention,
    detect_ternary_convention,
    modules_kept_dense,
    pack_bitnet,
    ternarise_online,
    unpack_bitnet,
)
from tritium.formats.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

BITNET = {"quant_method": "bitnet"}


def some_trits() -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(
        np.int8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=23), elements=st.integers(-1, 1)
    )


@given(trits=some_trits())
def test_packing_and_unpacking_keeps_every_trit_also_where_out_is_not_a_multiple_of_4(trits):
    packed = pack_bitnet(trits)
    assert packed.shape == ((trits.shape[0] + 3) // 4, trits.shape[1])
    np.testing.assert_array_equal(unpack_bitnet(packed, out_features=trits.shape[0]), trits)


@given(trits=some_trits())
def test_a_byte_holds_rows_that_lie_a_quarter_apart(trits):
    packed, quarter = pack_bitnet(trits), (trits.shape[0] + 3) // 4
    for row in range(trits.shape[0]):
        codes = (packed[row % quarter] >> (2 * (row // quarter))) & 3
        np.testing.assert_array_equal(codes.astype(int) - 1, trits[row])


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it is imported
@settings(max_examples=50, deadline=None)
@given(trits=some_trits().filter(lambda trits: trits.shape[0] >= 4))
def test_the_packed_bytes_equal_those_of_transformers(trits):
    import torch  # noqa: PLC0415 - the oracle is not always installed
    from transformers.integrations import bitnet  # noqa: PLC0415

    expected = bitnet.pack_weights(torch.from_numpy(trits.astype(np.float32))).numpy()
    np.testing.assert_array_equal(pack_bitnet(trits), expected)


@given(trits=some_trits(), data=st.data())
def test_the_code_3_is_refused_wherever_it_stands(trits, data):
    packed = pack_bitnet(trits)
    row = data.draw(st.integers(0, packed.shape[0] - 1))
    column = data.draw(st.integers(0, packed.shape[1] - 1))
    packed[row, column] |= np.uint8(3 << (2 * data.draw(st.integers(0, 3))))
    with pytest.raises(
        ValidationError, match=r"layer\.weight: the code at row \d+, column \d+ is 3"
    ) as error:
        unpack_bitnet(packed, out_features=trits.shape[0], name="layer.weight")
    assert error.value.details["tensor"] == "layer.weight"


@pytest.mark.parametrize("out_features", [0, -1, 4, 9, 1 << 62])
def test_out_features_that_do_not_fit_the_packed_rows_are_refused(out_features):
    with pytest.raises(ValidationError, match="packed rows do not fit"):
        unpack_bitnet(np.zeros((2, 3), np.uint8), out_features=out_features)


@pytest.mark.parametrize(
    "packed", [np.zeros(4, np.uint8), np.zeros((2, 2), np.int8), np.zeros((1, 2, 2), np.uint8)]
)
def test_a_packed_weight_of_another_form_is_refused(packed):
    with pytest.raises(ValidationError, match="uint8 matrix"):
        unpack_bitnet(packed, out_features=4)


@pytest.mark.parametrize(
    "trits",
    [
        np.full((2, 2), 2, np.int8),
        np.full((2, 2), -128, np.int8),
        np.zeros(3, np.int8),
        np.zeros((0, 2), np.int8),
    ],
)
def test_what_is_no_matrix_of_trits_is_not_packed(trits):
    with pytest.raises(ValidationError, match="Trits"):
        pack_bitnet(trits)


@pytest.mark.oracle
def test_ternarising_a_master_equals_transformers(scripture_llama: Path):
    import torch  # noqa: PLC0415 - the oracle is not always installed

    with open_checkpoint(scripture_llama) as checkpoint:
        names = [name for name in checkpoint.tensors if name.endswith("_proj.weight")]
        for name in names:
            weight = checkpoint.read_float32(name)
            trits, scale = ternarise_online(weight)
            master = torch.from_numpy(weight)
            # WeightQuant's formula; the mean of torch depends on its order of additions.
            expected_scale = 1.0 / master.abs().mean().clamp_(min=1e-5)
            expected = (master * expected_scale).round().clamp(-1, 1).numpy()
            assert abs(int(scale.view(np.uint32)) - int(expected_scale.numpy().view(np.uint32))) <= 2
            np.testing.assert_array_equal(trits, expected)


def test_ternarising_rounds_half_to_even_and_survives_zero():
    trits, scale = ternarise_online(np.array([[0.5, -0.5, 1.0, 2.0, -1.0]], np.float32))
    assert scale == np.float32(1)
    np.testing.assert_array_equal(trits, [[0, 0, 1, 1, -1]])
    trits, scale = ternarise_online(np.zeros((2, 3), np.float32))
    assert scale == np.float32(1) / np.float32(1e-5)
    np.testing.assert_array_equal(trits, np.zeros((2, 3)))


def test_the_two_packed_forms_of_the_trained_model_hold_the_same_trits(
    scripture_bitnet_bitlinear: Path, scripture_bitnet_offline: Path
):
    with (
        open_checkpoint(scripture_bitnet_bitlinear) as divides,
        open_checkpoint(scripture_bitnet_offline) as multiplies,
    ):
        packed = [name for name, info in divides.tensors.items() if info.dtype == "U8"]
        assert len(packed) == 42
        for name in packed:
            rows = divides.tensors[name].shape[0] * 4
            trits = unpack_bitnet(divides.read(name), out_features=rows, name=name)
            np.testing.assert_array_equal(trits, unpack_bitnet(multiplies.read(name), out_features=rows))
            np.testing.assert_array_equal(pack_bitnet(trits), divides.read(name))
            product = divides.read_float32(name + "_scale") * multiplies.read_float32(name + "_scale")
            assert abs(product - 1).max() < 0.01


def test_the_packed_trits_are_the_ternarised_masters(
    scripture_bitnet_online: Path, scripture_bitnet_bitlinear: Path
):
    with (
        open_checkpoint(scripture_bitnet_online) as masters,
        open_checkpoint(scripture_bitnet_bitlinear) as packed,
    ):
        for name, info in packed.tensors.items():
            if info.dtype == "U8":
                trits, _ = ternarise_online(masters.read_float32(name))
                np.testing.assert_array_equal(
                    trits, unpack_bitnet(packed.read(name), out_features=len(trits))
                )


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (BITNET, TernaryConvention.BITLINEAR),
        ({**BITNET, "linear_class": "bitlinear"}, TernaryConvention.BITLINEAR),
        ({**BITNET, "linear_class": "autobitlinear"}, TernaryConvention.AUTOBITLINEAR_OFFLINE),
        (
            {**BITNET, "linear_class": "autobitlinear", "quantization_mode": "online"},
            TernaryConvention.AUTOBITLINEAR_ONLINE,
        ),
        ({**BITNET, "use_rms_norm": False, "rms_norm_eps": 1e-6}, TernaryConvention.BITLINEAR),
        (None, TernaryConvention.NONE),
    ],
)
def test_each_marker_means_one_convention(declared, expected):
    assert detect_ternary_convention({"quantization_config": declared}) is expected


def test_the_trained_checkpoints_declare_what_their_names_say(
    scripture_llama: Path, scripture_bitnet_bitlinear: Path, scripture_bitnet_offline: Path
):
    expected = {
        scripture_llama: TernaryConvention.NONE,
        scripture_bitnet_bitlinear: TernaryConvention.BITLINEAR,
        scripture_bitnet_offline: TernaryConvention.AUTOBITLINEAR_OFFLINE,
    }
    for path, convention in expected.items():
        assert detect_ternary_convention(json.loads((path / "config.json").read_text())) is convention


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ("bitnet", "quantization_config"),
        ({}, "quant_method"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": ["bitnet"]}, "quant_method"),
        ({**BITNET, "linear_class": "otherlinear"}, "otherlinear"),
        ({**BITNET, "linear_class": ["bitlinear"]}, "bitlinear"),
        ({**BITNET, "quantization_mode": "online"}, "online"),
        ({**BITNET, "linear_class": "autobitlinear", "quantization_mode": "sometimes"}, "sometimes"),
        ({**BITNET, "use_rms_norm": True}, "use_rms_norm"),
        ({**BITNET, "weight_bits": 3}, "weight_bits"),
    ],
)
def test_an_unknown_marker_is_refused_by_name(declared, named):
    with pytest.raises(ValidationError, match=named):
        detect_ternary_convention({"quantization_config": declared})


def test_the_head_stays_dense_unless_the_config_says_otherwise():
    assert modules_kept_dense({"quantization_config": BITNET}) == ("lm_head",)
    assert modules_kept_dense({"quantization_config": {**BITNET, "modules_to_not_convert": ["a", "b"]}}) == (
        "a",
        "b",
    )
    with pytest.raises(ValidationError, match="modules_to_not_convert"):
        modules_kept_dense({"quantization_config": {**BITNET, "modules_to_not_convert": [1]}})
