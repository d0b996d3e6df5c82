"""The health score: real outcomes in, one number with its reasons out."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.health_store import MemoryOutcomeStore
from tritium_platform.insight.health import (
    HealthService,
    OutcomeCount,
    OutcomeKind,
    latency_bucket,
    percentile_latency_ms,
    score_health,
)
from tritium_platform.values import uuid7

outcome_counts = st.builds(
    OutcomeCount, st.sampled_from(OutcomeKind), st.integers(0, 40), st.integers(1, 10**6)
)


@given(st.integers(0, 2**40))
def test_a_latency_lies_in_its_bucket(milliseconds: int) -> None:
    bucket = latency_bucket(milliseconds)
    assert milliseconds <= 2**bucket
    assert bucket == 0 or milliseconds > 2 ** (bucket - 1)


@given(st.lists(outcome_counts, min_size=1, max_size=20), st.floats(0, 5))
def test_a_score_is_from_0_to_100_and_the_sum_of_its_factors(
    outcomes: list[OutcomeCount], quota_used: float
) -> None:
    health = score_health(outcomes, quota_used=quota_used)
    assert health.score is not None
    assert 0 <= health.score <= 100
    assert sum(factor.weight for factor in health.factors) == pytest.approx(1)
    assert all(0 <= factor.value <= 1 for factor in health.factors)
    assert health.score == round(100 * sum(factor.value * factor.weight for factor in health.factors))


@given(st.lists(outcome_counts, min_size=1, max_size=20), st.integers(1, 1000))
def test_another_failure_never_makes_it_better(outcomes: list[OutcomeCount], count: int) -> None:
    before = score_health(outcomes, quota_used=0).factors[0].value
    worse = [*outcomes, OutcomeCount(OutcomeKind.FAILED, 0, count)]
    assert score_health(worse, quota_used=0).factors[0].value <= before


def test_only_fast_successes_score_100() -> None:
    assert score_health([OutcomeCount(OutcomeKind.SUCCESS, 5, 10)], quota_used=0.5).score == 100


def test_what_the_customer_did_wrong_is_not_held_against_the_service() -> None:
    outcomes = [OutcomeCount(OutcomeKind.SUCCESS, 5, 1), OutcomeCount(OutcomeKind.REJECTED, 0, 99)]
    assert score_health(outcomes, quota_used=0).score == 100


def test_each_trouble_costs_what_it_weighs() -> None:
    success = OutcomeCount(OutcomeKind.SUCCESS, 5, 50)
    slow = OutcomeCount(OutcomeKind.SUCCESS, 16, 50)
    assert score_health([success, OutcomeCount(OutcomeKind.FAILED, 0, 50)], quota_used=0).score == 75
    assert score_health([success, OutcomeCount(OutcomeKind.REFUSED, 0, 50)], quota_used=0).score == 90
    assert score_health([success, slow], quota_used=0).score == 85
    assert score_health([success], quota_used=1.0).score == 85
    assert score_health([success], quota_used=0.9).score == 92


def test_nothing_happened_is_no_score() -> None:
    assert score_health([], quota_used=1).score is None


def test_the_percentile_is_the_edge_of_its_bucket() -> None:
    outcomes = [OutcomeCount(OutcomeKind.SUCCESS, 3, 95), OutcomeCount(OutcomeKind.SUCCESS, 10, 5)]
    assert percentile_latency_ms(outcomes, percent=95) == 8
    assert percentile_latency_ms(outcomes, percent=96) == 1024
    assert percentile_latency_ms([], percent=95) == 0


async def test_the_score_forgets_what_is_older_than_a_day() -> None:
    clock = ManualClock()
    health = HealthService(store=MemoryOutcomeStore(MemoryDatabase()), clock=clock)
    tenant_id = uuid7(clock)
    await health.update_health(tenant_id, kind=OutcomeKind.FAILED, latency_ms=5)
    await health.update_health(uuid7(clock), kind=OutcomeKind.FAILED, latency_ms=5)
    assert (await health.health_of(tenant_id, quota_used=0)).score == 50
    clock.advance(seconds=timedelta(hours=25).total_seconds())
    await health.update_health(tenant_id, kind=OutcomeKind.SUCCESS, latency_ms=5)
    score = await health.health_of(tenant_id, quota_used=0)
    assert (score.score, score.requests) == (100, 1)
