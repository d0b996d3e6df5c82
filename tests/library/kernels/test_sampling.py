import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tritium.errors import ProcessingError, ValidationError
from tritium.kernels import reference, sampling

NUMBERS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=60)
LOGITS = NUMBERS.map(lambda values: np.array(values, np.float32))
FILTERS = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.05, 5),
        "top_k": st.integers(0, 70),
        "top_p": st.floats(0.01, 1),
        "min_p": st.floats(0, 1),
    }
)
DRAWS = st.floats(0, 1, exclude_max=True)


@given(LOGITS, FILTERS, DRAWS)
def test_a_draw_equals_the_references_draw(logits, filters, random):
    token, logprob = sampling.sample(logits, **filters, random=random)
    expected = reference.sample(logits, **filters, random=random)
    # The two sum in different orders: nudge the draw to see whether it sits on a border.
    neighbours = {expected[0]}
    for nudge in (-1e-9, 1e-9):
        for share in (filters["top_p"], min(1.0, max(1e-9, filters["top_p"] + nudge))):
            moved = filters | {"top_p": share, "min_p": min(1.0, max(0.0, filters["min_p"] + nudge))}
            draw = min(max(random + nudge, 0.0), 1 - 1e-12)
            neighbours.add(reference.sample(logits, **moved, random=draw)[0])
            neighbours.add(reference.sample(logits, **filters, random=draw)[0])
    assert token in neighbours
    if token == expected[0]:
        assert logprob == pytest.approx(expected[1], abs=1e-9)


@given(st.lists(st.tuples(LOGITS, FILTERS, DRAWS, st.booleans()), max_size=9), st.integers(1, 3))
def test_rows_are_drawn_as_if_each_was_alone(rows, threads):
    filters = [filters | ({"temperature": 0.0} if greedy else {}) for _, filters, _, greedy in rows]
    draws = [draw for _, _, draw, _ in rows]
    found = sampling.sample_rows(
        [logits for logits, *_ in rows],
        **{name: [each[name] for each in filters] for name in ("temperature", "top_k", "top_p", "min_p")},
        random=draws,
        threads=threads,
    )
    alone = [
        sampling.sample(logits, **each, random=draw)[0]
        for (logits, *_), each, draw in zip(rows, filters, draws, strict=True)
    ]
    assert found == alone


@pytest.mark.parametrize("size", [1, 15, 16, 40_000])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_has_no_token_and_its_neighbour_has(size, wrong):
    good = np.arange(size, dtype=np.float32)
    bad = good.copy()
    bad[size // 2] = wrong
    same = {"top_k": [0] * 2, "top_p": [1.0] * 2, "min_p": [0.0] * 2, "random": [0.5] * 2}
    for temperature in (0.0, 1.0):
        tokens = sampling.sample_rows([bad, good], temperature=[temperature] * 2, **same, threads=2)
        assert tokens == reference.sample_rows([bad, good], temperature=[temperature] * 2, **same)
        assert tokens[0] == -1
        assert tokens[1] == sampling.sample(good, temperature=temperature, random=0.5)[0]


@pytest.mark.parametrize("size", [7, 50_000])
def test_the_last_of_all_draws_is_an_id_that_can_be_drawn(size):
    logits = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    logits[-3:] = -np.inf
    assert sampling.sample(logits, temperature=1.0, random=1 - 2**-53)[0] == size - 4


def test_parameters_that_do_not_match_the_rows_are_refused():
    row = np.zeros(3, np.float32)
    with pytest.raises(ValidationError, match="one value"):
        sampling.sample_rows([row], temperature=[], top_k=[0], top_p=[1.0], min_p=[0.0], random=[0.0])
    with pytest.raises(ValidationError, match="top_p"):
        sampling.sample_rows([row], temperature=[1.0], top_k=[0], top_p=[0.0], min_p=[0.0], random=[0.0])


def packed(allowed) -> np.ndarray:
    return np.packbits(np.asarray(allowed, dtype=bool), bitorder="little")


@given(st.lists(st.tuples(LOGITS, FILTERS, DRAWS, st.randoms(use_true_random=False)), min_size=1, max_size=5))
def test_what_is_not_allowed_is_never_drawn_and_the_rest_as_if_it_was_all(rows):
    masks = [[random.random() < 0.5 for _ in logits] for logits, *_, random in rows]
    arguments = {name: [each[name] for _, each, *_ in rows] for name in rows[0][1]}
    arguments |= {"random": [draw for _, _, draw, _ in rows], "allowed": [packed(mask) for mask in masks]}
    for heat in (arguments["temperature"], [0.0] * len(rows)):
        found = sampling.sample_rows(
            [logits for logits, *_ in rows], **arguments | {"temperature": heat}, threads=2
        )
        for token, mask, temperature, (logits, filters, draw, _) in zip(
            found, masks, heat, rows, strict=True
        ):
            kept = np.where(mask, logits, -np.inf).astype(np.float32)
            if not any(mask):
                assert token == -1
                continue
            assert mask[token]
            assert token == sampling.sample(kept, **filters | {"temperature": temperature}, random=draw)[0]


@given(LOGITS, st.integers(0, 2**60), FILTERS, DRAWS)
def test_the_reference_keeps_to_the_mask_too(logits, bits, filters, random):
    mask = np.array([bits >> place & 1 for place in range(len(logits))], dtype=bool)
    asked = {name: [value] for name, value in (filters | {"temperature": 0.0, "random": random}).items()}
    both = [module.sample_rows([logits], **asked, allowed=[packed(mask)]) for module in (sampling, reference)]
    assert both[0] == both[1]
    assert both[0][0] == -1 or mask[both[0][0]]


def test_a_mask_that_is_too_short_is_refused():
    asked = {"temperature": [0.0], "top_k": [0], "top_p": [1.0], "min_p": [0.0], "random": [0.0]}
    with pytest.raises(ValidationError, match="one bit for each token"):
        sampling.sample_rows([np.zeros(9, np.float32)], **asked, allowed=[np.ones(1, np.uint8)])
    with pytest.raises(ValidationError, match="allowed"):
        sampling.sample_rows([np.zeros(9, np.float32)], **asked, allowed=[np.ones(9, np.float32)])


def test_logits_that_differ_by_less_than_log_probabilities_can_are_in_order():
    logits = np.array([1, 0, 1e-30], np.float32)
    for twin in (sampling, reference):
        _, best = twin.log_probabilities(logits, token=0, top=3)
        assert [index for index, _ in best] == [0, 2, 1]


@given(LOGITS, st.integers(0, 70), st.data())
def test_log_probabilities_are_those_of_the_reference(logits, top, data):
    token = data.draw(st.integers(0, len(logits) - 1))
    chosen, best = sampling.log_probabilities(logits, token=token, top=top)
    expected, expected_best = reference.log_probabilities(logits, token=token, top=top)
    assert chosen == pytest.approx(expected, abs=1e-9)
    assert [index for index, _ in best] == [index for index, _ in expected_best]
    assert [value for _, value in best] == pytest.approx([value for _, value in expected_best], abs=1e-9)
    assert len(best) == min(top, len(logits))
    if top >= len(logits):
        assert sum(math.exp(value) for _, value in best) == pytest.approx(1.0)


@pytest.mark.parametrize("twin", [sampling, reference])
def test_log_probabilities_of_broken_logits_are_a_processing_error(twin):
    with pytest.raises(ProcessingError, match="NaN or infinity"):
        twin.log_probabilities(np.array([0.0, np.nan], np.float32), token=0, top=1)


@pytest.mark.parametrize(("token", "top"), [(-1, 0), (4, 0), (0, -1)])
def test_log_probabilities_of_what_is_not_there_are_refused(token, top):
    with pytest.raises(ValidationError):
        sampling.log_probabilities(np.zeros(4, np.float32), token=token, top=top)


@given(LOGITS, st.integers(1, 5), DRAWS)
def test_top_k_draws_only_from_the_k_largest(logits, top_k, random):
    token, _ = sampling.sample(logits, temperature=2.0, top_k=top_k, random=random)
    assert (logits > logits[token]).sum() < top_k


@given(LOGITS, st.floats(0.05, 0.95), DRAWS)
def test_top_p_draws_only_from_the_smallest_set_that_reaches_p(logits, top_p, random):
    token, _ = sampling.sample(logits, temperature=1.0, top_p=top_p, random=random)
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares /= shares.sum()
    assert shares[logits > logits[token]].sum() < top_p + 1e-9


def test_top_p_keeps_no_more_than_reach_it_exactly():
    equal = np.zeros(4, np.float32)
    for module in (sampling, reference):
        assert [
            module.sample(equal, temperature=1.0, top_p=0.5, random=u)[0] for u in (0.0, 0.49, 0.51, 0.99)
        ] == [0, 0, 1, 1]


@given(LOGITS, st.floats(0, 1), DRAWS)
def test_min_p_draws_only_what_is_probable_enough(logits, min_p, random):
    token, _ = sampling.sample(logits, temperature=1.0, min_p=min_p, random=random)
    assert math.exp(float(logits[token]) - float(logits.max())) >= min_p


@given(LOGITS, DRAWS)
def test_temperature_0_takes_the_first_of_the_largest(logits, random):
    token, logprob = sampling.sample(logits, temperature=0.0, random=random)
    assert token == int(np.argmax(logits))
    total = np.log(np.exp(logits.astype(np.float64) - logits.max()).sum())
    assert logprob == pytest.approx(-total, abs=1e-9)


@given(LOGITS, st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_larger_random_number_never_draws_a_smaller_id(logits, first, second):
    assume(first < second)
    draws = [sampling.sample(logits, temperature=1.0, random=random)[0] for random in (first, second)]
    assert draws == sorted(draws)


def test_draws_follow_the_distribution():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    draws = [sampling.sample(logits, temperature=1.0, random=(i + 0.5) / 2000)[0] for i in range(2000)]
    assert np.bincount(draws, minlength=4).tolist() == [1000, 600, 300, 100]


def test_a_large_vocabulary_is_cut_like_the_reference_cuts_it():
    logits = (np.random.default_rng(1).standard_normal(50_000) * 0.5).astype(np.float32)
    for top_k, top_p in ((0, 0.9), (0, 0.01), (1000, 0.5), (40, 1.0)):
        filters = {"temperature": 0.8, "top_k": top_k, "top_p": top_p}
        for random in (0.0, 0.123, 0.77, 0.999):
            expected = reference.sample(logits, **filters, random=random)
            assert sampling.sample(logits, **filters, random=random)[0] == expected[0]


def test_minus_infinity_is_never_drawn():
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)
    assert {sampling.sample(logits, temperature=9.0, random=i / 50)[0] for i in range(50)} == {1, 3}


@pytest.mark.parametrize("twin", [sampling, reference])
@pytest.mark.parametrize("bad", [[0.0, np.nan], [np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_broken_logits_are_a_processing_error(twin, bad):
    for temperature in (0.0, 1.0):
        with pytest.raises(ProcessingError, match="NaN or infinity"):
            twin.sample(np.array(bad, np.float32), temperature=temperature, random=0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("random", 1.0),
        ("random", -0.5),
        ("random", math.nan),
        ("logits", np.zeros(0, np.float32)),
        ("logits", np.zeros((1, 4), np.float32)),
    ],
)
def test_parameters_out_of_range_are_refused(name, value):
    arguments = {"logits": np.zeros(4, np.float32), "temperature": 1.0, "random": 0.5, name: value}
    with pytest.raises(ValidationError, match=name):
        sampling.sample(arguments.pop("logits"), **arguments)
