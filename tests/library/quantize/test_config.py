"""A configuration is right or refused by the name of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tritium.errors import ValidationError
from tritium.quantize import LayerOverride, QuantizationConfig, QuantizationStrategy

WRONG = [
    {"strategy": "best"},
    {"strategy": None},
    {"group_size": 100},
    {"group_size": -32},
    {"group_size": 31},
    {"group_size": 32.0},
    {"group_size": 1 << 40},
    {"group_size": "128"},
    {"min_planes": 0},
    {"min_planes": 3, "max_planes": 2},
    {"max_planes": 4},
    {"max_planes": True},
    {"max_acceptable_loss": -0.1},
    {"max_acceptable_loss": 1.5},
    {"max_acceptable_loss": float("nan")},
    {"max_acceptable_loss": "0.5"},
    {"average_bits": 0},
    {"average_bits": True},
    {"average_bits": "2.5"},
    {"average_bits": float("inf")},
    {"target_loss": 0.0},
    {"target_loss": float("nan")},
    {"average_bits": 2.5, "target_loss": 0.1},
    {"average_bits": 2.5, "max_acceptable_loss": 0.3},
    {"embedding_bits": 5},
    {"embedding_bits": 6.0},
    {"embedding_bits": True},
    {"embedding_planes": 0},
    {"embedding_planes": 4},
    {"embedding_planes": 1.0},
    {"embedding_planes": True},
    {"embedding_planes": 1, "embedding_bits": 8},
    {"window": 1},
    {"window": 1 << 20},
    {"calibration_tokens": 0},
    {"validation_tokens": 1},
    {"calibration_text": ""},
    {"validation_text": "  \n"},
    {"validation_text": b"bytes"},
    {"layers": ["a"]},
    {"layers": {"a": {"planes": 2}}},
]


@pytest.mark.parametrize("values", WRONG, ids=str)
def test_a_value_out_of_range_or_of_the_wrong_type_is_refused_by_name(values):
    with pytest.raises(ValidationError) as refusal:
        QuantizationConfig(**values)
    assert next(reversed(values)) in refusal.value.message or "min_planes" in refusal.value.message


@pytest.mark.parametrize(
    "values",
    [
        {"strategie": "auto"},
        {"layers": {"a": {"plane": 2}}},
        {"layers": {"a": 3}},
        {"layers": []},
        {"layers": {"a": {"planes": 4}}},
        {"layers": {"a": {"strategy": "?"}}},
        {"calibration_text": {"file": "x"}},
        {"calibration_text": {"path": 3}},
        [],
        None,
    ],
    ids=str,
)
def test_plain_values_that_are_no_configuration_are_refused(values):
    with pytest.raises(ValidationError):
        QuantizationConfig.from_dict(values)


def test_a_configuration_goes_through_json_and_comes_back_equal():
    config = QuantizationConfig(
        strategy=QuantizationStrategy.ADAPTIVE,
        group_size=0,
        average_bits=2.5,
        layers={"*.down_proj": LayerOverride(planes=2, strategy=QuantizationStrategy.STANDARD)},
        calibration_text=Path("/some/file.txt"),
        validation_text="some text",
    )
    assert QuantizationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_names_of_strategies_are_taken_as_text():
    assert QuantizationConfig(strategy="absmean").strategy is QuantizationStrategy.ABSMEAN
