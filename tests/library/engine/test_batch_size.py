from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.batch_size import optimal_batch_size, rows_within
from tritium.engine.cost import StepCost
from tritium.errors import ErrorCategory, InsufficientMemoryError, Recovery, ValidationError

costs = st.builds(
    StepCost,
    fixed=st.one_of(st.just(0.0), st.floats(1e-6, 1)),
    per_row=st.one_of(st.just(0.0), st.floats(1e-6, 0.1)),
)
latencies = st.one_of(st.none(), st.floats(1e-5, 2))


def tried(free_bytes, sequence_bytes, latency_seconds, cost, most):
    """The specification, tried one by one: the largest n that fits and keeps to the latency, or 1."""
    fitting = [n for n in range(1, most + 1) if n * sequence_bytes <= free_bytes]
    quick = [n for n in fitting if latency_seconds is None or cost.seconds(rows=n) <= latency_seconds]
    return max(quick or fitting[:1], default=None)


@given(
    free=st.integers(-5, 3000),
    size=st.integers(1, 400),
    latency=latencies,
    cost=costs,
    most=st.integers(1, 60),
)
def test_it_is_what_trying_every_size_finds(free, size, latency, cost, most):
    expected = tried(free, size, latency, cost, most)
    wanted = {"free_bytes": free, "sequence_bytes": size, "latency_seconds": latency}
    if expected is None:
        with pytest.raises(InsufficientMemoryError) as caught:
            optimal_batch_size(**wanted, cost=cost, most=most)
        assert caught.value.category is ErrorCategory.RESOURCE_EXHAUSTED
        assert caught.value.recovery is Recovery.OPTIMIZE_BATCH_SIZE
        assert caught.value.details == {"required": size, "available": max(0, free)}
    else:
        assert optimal_batch_size(**wanted, cost=cost, most=most) == expected


@given(
    free=st.integers(1, 2**40),
    more=st.integers(0, 2**40),
    size=st.integers(1, 2**30),
    latency=latencies,
    cost=costs,
    most=st.integers(1, 4096),
)
def test_more_memory_never_means_fewer_and_memory_is_never_passed(  # noqa: PLR0917 - generated
    free, more, size, latency, cost, most
):
    free = max(free, size)
    wanted = {"sequence_bytes": size, "latency_seconds": latency, "cost": cost, "most": most}
    less, found = (optimal_batch_size(free_bytes=each, **wanted) for each in (free, free + more))
    assert 1 <= less <= found <= most
    assert less * size <= free


@given(cost=costs, most=st.integers(1, 500), latency=st.floats(1e-5, 2), later=st.floats(1, 3))
def test_more_time_never_means_fewer(cost, most, latency, later):
    assert rows_within(latency, cost=cost, most=most) <= rows_within(latency * later, cost=cost, most=most)


def test_sizes_that_make_no_sense_are_refused():
    for size, most in ((0, 1), (1, 0)):
        with pytest.raises(ValidationError):
            optimal_batch_size(
                free_bytes=1, sequence_bytes=size, latency_seconds=None, cost=StepCost(), most=most
            )
