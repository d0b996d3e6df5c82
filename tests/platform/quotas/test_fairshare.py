"""Shares of capacity: feasible, guaranteed, nothing wasted, and the one max-min allocation by weight."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium_platform.errors import ValidationError
from tritium_platform.quotas.fairshare import Claim, Resource, ShareBound, allocate_tenant_resources, fill


@st.composite
def problems(draw, *, most=10**12, tenants=8):
    """Claims and a capacity that holds what is guaranteed."""
    weights = st.integers(1, 64 if most > 100 else 3)
    claims = []
    for _ in range(draw(st.integers(0, tenants))):
        cap = draw(st.none() | st.integers(0, most))
        floor = draw(st.just(0) | st.integers(0, most if cap is None else cap))
        claims.append(Claim(weight=draw(weights), demand=draw(st.integers(0, most)), floor=floor, cap=cap))
    guaranteed = sum(claim.floor for claim in claims)
    return claims, guaranteed + draw(st.integers(0, most * max(1, len(claims))))


def amounts(claims, capacity):
    return [share.amount for share in fill(claims, capacity=capacity)]


@given(problems())
@settings(max_examples=100)
def test_no_share_breaks_a_bound_and_nothing_is_wasted(problem):
    claims, capacity = problem
    given_out = amounts(claims, capacity)
    assert sum(given_out) <= capacity
    for claim, amount in zip(claims, given_out, strict=True):
        assert min(claim.demand, claim.floor) <= amount <= claim.upper
    # Pareto: nobody can have more unless somebody has less.
    assert sum(given_out) == min(capacity, sum(claim.upper for claim in claims))


@given(problems())
@settings(max_examples=100)
def test_whoever_wants_more_has_no_less_by_weight_than_who_could_give(problem):
    """The definition of max-min fairness: raising a share would lower one that is no larger by weight."""
    claims, capacity = problem
    given_out = amounts(claims, capacity)
    for taker, taken in zip(claims, given_out, strict=True):
        for giver, held in zip(claims, given_out, strict=True):
            if taken < taker.upper and held > giver.lower:
                assert held / giver.weight <= taken / taker.weight


def by_enumeration(claims, capacity):
    """Try for everybody whether they stand at their lower bound, at their upper bound, or at the level."""
    if sum(claim.upper for claim in claims) <= capacity:
        return {tuple(Fraction(claim.upper) for claim in claims)}
    found = set()
    for places in product(("lower", "upper", "level"), repeat=len(claims)):
        fixed = sum(
            getattr(claim, place) for claim, place in zip(claims, places, strict=True) if place != "level"
        )
        rising = sum(claim.weight for claim, place in zip(claims, places, strict=True) if place == "level")
        if not rising:
            continue
        level = Fraction(capacity - fixed, rising)
        vector = tuple(
            level * claim.weight if place == "level" else Fraction(getattr(claim, place))
            for claim, place in zip(claims, places, strict=True)
        )
        fits = all(
            claim.lower <= amount <= claim.upper
            and (place != "lower" or level * claim.weight <= claim.lower)
            and (place != "upper" or level * claim.weight >= claim.upper)
            for claim, place, amount in zip(claims, places, vector, strict=True)
        )
        if fits:
            found.add(vector)
    return found


@given(problems(most=9, tenants=5))
@settings(max_examples=100)
def test_filling_finds_the_one_allocation_that_enumeration_finds(problem):
    claims, capacity = problem
    found = by_enumeration(claims, capacity)
    assert len(found) <= 1
    if found:
        assert tuple(amounts(claims, capacity)) == found.pop()
    else:  # everybody is at a bound, and the capacity is given out to the last unit
        assert sum(amounts(claims, capacity)) == capacity


@given(problems(most=4, tenants=3))
@settings(max_examples=60)
def test_no_allocation_on_a_grid_is_fairer(problem):
    """Exhaustive search over thirds of a unit: the poorest by weight has at most what we give, and so on."""
    claims, capacity = problem
    ours = sorted(
        (amount / claim.weight for claim, amount in zip(claims, amounts(claims, capacity), strict=True)),
    )
    grids = [[Fraction(n, 3) for n in range(3 * claim.lower, 3 * claim.upper + 1)] for claim in claims]
    for vector in product(*grids):
        if sum(vector) <= capacity:
            other = sorted(part / claim.weight for claim, part in zip(claims, vector, strict=True))
            assert other <= ours


@given(problems(), st.randoms(use_true_random=False), st.integers(1, 1000))
def test_neither_the_order_nor_the_unit_matters(problem, random, scale):
    claims, capacity = problem
    ours = amounts(claims, capacity)
    order = list(range(len(claims)))
    random.shuffle(order)
    assert amounts([claims[place] for place in order], capacity) == [ours[place] for place in order]
    scaled = [
        Claim(
            weight=claim.weight * scale,
            demand=claim.demand * scale,
            floor=claim.floor * scale,
            cap=None if claim.cap is None else claim.cap * scale,
        )
        for claim in claims
    ]
    assert amounts(scaled, capacity * scale) == [amount * scale for amount in ours]


@given(problems(), st.integers(0, 10**12))
def test_more_capacity_takes_from_nobody(problem, more):
    claims, capacity = problem
    before, after = amounts(claims, capacity), amounts(claims, capacity + more)
    assert all(least <= now for least, now in zip(before, after, strict=True))


def test_the_parts_that_nobody_uses_go_to_the_others_by_weight():
    claims = [
        Claim(weight=1, demand=100),
        Claim(weight=4, demand=100),
        Claim(weight=16, demand=3),
        Claim(weight=1, demand=100, floor=20),
        Claim(weight=16, demand=100, cap=10),
        Claim(weight=1, demand=5, floor=5),
    ]
    shares = fill(claims, capacity=63)
    assert [share.amount for share in shares] == [5, 20, 3, 20, 10, 5]
    assert [share.bound.name for share in shares] == ["LEVEL", "LEVEL", "DEMAND", "FLOOR", "CAP", "DEMAND"]


def test_shares_are_exact_where_floats_are_not():
    shares = amounts([Claim(weight=weight, demand=2**60) for weight in (1, 2, 4)], 2**60 + 1)
    assert shares == [Fraction(weight * (2**60 + 1), 7) for weight in (1, 2, 4)]


def test_each_resource_is_shared_among_those_who_claim_it():
    claims = {
        "a": {
            Resource.CPU: Claim(weight=1, demand=8),
            Resource.MEMORY: Claim(weight=1, demand=10),
            Resource.BANDWIDTH: Claim(weight=1, demand=10),
        },
        "b": {
            Resource.CPU: Claim(weight=3, demand=8),
            Resource.ACCELERATOR_MEMORY: Claim(weight=3, demand=90),
            Resource.BANDWIDTH: Claim(weight=1, demand=10),
        },
    }
    capacity = {
        Resource.CPU: 8,
        Resource.MEMORY: 64,
        Resource.ACCELERATOR_MEMORY: 80,
        Resource.BANDWIDTH: 12,
    }
    shares = allocate_tenant_resources(claims, capacity=capacity)
    assert {resource: share.amount for resource, share in shares["a"].items()} == {
        Resource.CPU: 2,
        Resource.MEMORY: 10,
        Resource.BANDWIDTH: 6,
    }
    assert {resource: share.amount for resource, share in shares["b"].items()} == {
        Resource.CPU: 6,
        Resource.ACCELERATOR_MEMORY: 80,
        Resource.BANDWIDTH: 6,
    }
    assert shares["b"][Resource.ACCELERATOR_MEMORY].bound is ShareBound.LEVEL


def test_what_cannot_be_kept_is_refused_with_the_numbers():
    with pytest.raises(ValidationError, match="11 of memory are guaranteed, and there are 10"):
        allocate_tenant_resources(
            {
                name: {Resource.MEMORY: Claim(weight=1, demand=0, floor=floor)}
                for name, floor in (("a", 5), ("b", 6))
            },
            capacity={Resource.MEMORY: 10},
        )
    with pytest.raises(ValidationError, match="claims bandwidth, and there is none"):
        allocate_tenant_resources(
            {"a": {Resource.BANDWIDTH: Claim(weight=1, demand=1)}}, capacity={Resource.CPU: 1}
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": 0, "demand": 1},
        {"weight": 1.5, "demand": 1},
        {"weight": 1, "demand": -1},
        {"weight": 1, "demand": 1.0},
        {"weight": 1, "demand": 1, "floor": -1},
        {"weight": 1, "demand": 1, "cap": -1},
        {"weight": 1, "demand": 1, "floor": 3, "cap": 2},
    ],
)
def test_a_claim_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValidationError):
        Claim(**wrong)
