from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.batch import apportion
from tritium.engine.config import EngineConfig
from tritium.engine.request import SamplingParams
from tritium.engine.sampler import uniform
from tritium.errors import ValidationError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", 2.1),
        ("top_p", 1.5),
        ("top_p", float("inf")),
        ("top_k", -1),
        ("min_p", 2.0),
        ("presence_penalty", 3.0),
        ("frequency_penalty", -2.5),
        ("seed", 2**63),
        ("stop", ("",)),
        ("stop", ("x",) * 17),
        ("stop", ("x" * 2000,)),
        ("stop", 5),
        ("stop", None),
        ("stop", ["x", 5]),
        ("max_tokens", 1.5),
        ("max_tokens", "5"),
        ("max_tokens", True),
        ("seed", 1.5),
        ("seed", "5"),
        ("top_k", None),
        ("top_k", 2.0),
        ("temperature", None),
        ("temperature", "warm"),
        ("temperature", 10**400),
        pytest.param("seed", 10**5000, id="seed-more digits than Python writes"),
        ("top_k", "x" * 5000),
        ("top_p", 0),
        ("top_p", float("nan")),
        ("min_p", None),
        ("ignore_eos", "no"),
        ("echo", 1),
        ("logit_bias", {5: 101}),
        ("logit_bias", {5: float("nan")}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"5": 1.0}),
        ("logit_bias", {5: None}),
        ("logit_bias", dict.fromkeys(range(1025), 0.0)),
        ("logit_bias", [(5, 1.0)]),
        ("logit_bias", None),
        ("logprobs", 21),
        ("logprobs", -1),
        ("logprobs", True),
        ("grammar", "a*"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValidationError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.details["param"] == field
    assert len(caught.value.message) < 200


def test_one_stop_text_is_one_and_a_list_of_them_cannot_change_afterwards():
    assert SamplingParams(stop="the").stop == ("the",)
    texts = ["a", "b"]
    sampling = SamplingParams(stop=texts)
    texts.append("")
    assert sampling.stop == ("a", "b")
    assert hash(sampling) == hash(SamplingParams(stop=("a", "b")))


def test_the_numbers_of_numpy_become_plain_ones():
    sampling = SamplingParams(max_tokens=np.int64(5), seed=np.int32(7), temperature=np.float32(0.5))
    assert (sampling.max_tokens, sampling.seed, sampling.temperature) == (5, 7, 0.5)
    assert {type(sampling.max_tokens), type(sampling.seed)} == {int}
    assert type(sampling.temperature) is float


@pytest.mark.parametrize("field", ["kv_cache_bytes", "max_batched_tokens", "max_running", "max_context"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True])
def test_a_limit_that_is_no_whole_number_above_zero_is_refused_by_name(field, value):
    with pytest.raises(ValidationError, match=field):
        EngineConfig(**{field: value})


@given(st.integers(0, 10**15), st.lists(st.integers(1, 4096), min_size=1, max_size=40))
def test_apportioned_parts_sum_to_the_whole_and_follow_the_shares(total, shares):
    parts = apportion(total, shares=shares)
    assert sum(parts) == total
    for part, share in zip(parts, shares, strict=True):
        assert abs(part - total * share / sum(shares)) <= 1


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31))
def test_a_draw_lies_in_the_unit_interval_and_depends_on_seed_and_place_alone(seed, counter):
    draw = uniform(seed, counter=counter)
    assert 0.0 <= draw < 1.0
    assert draw == uniform(seed, counter=counter)
    assert draw != uniform(seed, counter=counter + 1)


def test_draws_are_spread_evenly():
    draws = [uniform(7, counter=counter) for counter in range(20_000)]
    assert abs(sum(draws) / len(draws) - 0.5) < 0.01
    tenths = [sum(low / 10 <= draw < (low + 1) / 10 for draw in draws) for low in range(10)]
    assert max(tenths) - min(tenths) < 300
