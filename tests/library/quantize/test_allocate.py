"""Planes given out over layers: as good as trying everything, within the budget, never worse with more."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.errors import ValidationError
from tritium.quantize.allocate import STEPS, Choice, least_cost, least_size


@st.composite
def layers(draw, largest: int = 60):
    """Up to four layers of up to three choices: sizes and costs in any order, equal ones and zeros too."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        sizes = draw(st.lists(st.integers(0, largest), min_size=1, max_size=3))
        costs = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 10, allow_nan=False))
        found.append([Choice(planes=1 + n, size=size, cost=draw(costs)) for n, size in enumerate(sizes)])
    return found


def size_of(choices) -> int:
    return sum(choice.size for choice in choices)


def cost_of(choices) -> float:
    return sum(choice.cost for choice in choices)


def smallest(offered) -> int:
    return sum(min(choice.size for choice in choices) for choices in offered)


@given(offered=layers(), room=st.integers(0, 250))
def test_no_other_choice_within_the_size_costs_less(offered, room):
    size = smallest(offered) + room
    chosen = least_cost(offered, size=size)
    assert all(choice in choices for choice, choices in zip(chosen, offered, strict=True))
    assert size_of(chosen) <= size
    best = min(cost_of(each) for each in itertools.product(*offered) if size_of(each) <= size)
    assert cost_of(chosen) == pytest.approx(best)


@given(offered=layers(), share=st.floats(0, 1))
def test_no_other_choice_within_the_cost_is_smaller(offered, share):
    low, high = (sum(most(choice.cost for choice in choices) for choices in offered) for most in (min, max))
    cost = low + share * (high - low) + 1e-9
    chosen = least_size(offered, cost=cost)
    assert cost_of(chosen) <= cost + 1e-9
    fitting = [size_of(each) for each in itertools.product(*offered) if cost_of(each) <= cost - 1e-9]
    assert not fitting or size_of(chosen) <= min(fitting)


@given(offered=layers(largest=2**40), rooms=st.lists(st.integers(0, 2**42), min_size=2, max_size=2))
def test_large_layers_are_counted_in_units_and_more_room_is_never_worse(offered, rooms):
    floor = smallest(offered)
    found = [least_cost(offered, size=floor + room) for room in sorted(rooms)]
    assert all(size_of(each) <= floor + room for each, room in zip(found, sorted(rooms), strict=True))
    assert cost_of(found[1]) <= cost_of(found[0]) * (1 + 1e-12)
    # A layer is rounded up by less than a unit: what is exact with so much less room is reached.
    most = sum(max(choice.size for choice in choices) for choices in offered) - floor
    less = floor + min(rooms) - len(offered) * (most // STEPS + 1)
    exact = [cost_of(each) for each in itertools.product(*offered) if size_of(each) <= less]
    assert not exact or cost_of(found[0]) <= min(exact) + 1e-9


def test_planes_go_to_the_layer_that_gains_most_for_a_byte():
    robust = [Choice(planes=1, size=10, cost=0.1), Choice(planes=2, size=20, cost=0.0)]
    sensitive = [Choice(planes=1, size=10, cost=1.0), Choice(planes=2, size=20, cost=0.2)]
    assert [choice.planes for choice in least_cost([robust, sensitive], size=30)] == [1, 2]
    assert [choice.planes for choice in least_size([robust, sensitive], cost=0.35)] == [1, 2]
    assert [choice.planes for choice in least_size([robust, sensitive], cost=2.0)] == [1, 1]


def test_what_cannot_be_kept_is_refused_with_what_can():
    offered = [[Choice(planes=1, size=10, cost=0.25)]] * 2
    with pytest.raises(ValidationError, match="20 bytes at least"):
        least_cost(offered, size=19)
    with pytest.raises(ValidationError, match=r"lose 0\.5 together"):
        least_size(offered, cost=0.49)
