"""The decisions of serving."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.engine.request import ContextLengthExceededError
from tritium_platform.errors import (
    ModelSizeExceededError,
    NotFoundError,
    OverloadedError,
    ProcessingError,
    RateLimitExceededError,
    RequestTooLargeError,
    StorageQuotaExceededError,
    ValidationError,
)
from tritium_platform.insight.health import OutcomeKind
from tritium_platform.serving import policy
from tritium_platform.serving.model import DeploymentState, Outcome, ReplicaState, ReplicaStatus

STATUSES = st.lists(
    st.builds(
        ReplicaStatus, name=st.just("r"), state=st.sampled_from(ReplicaState), in_flight=st.integers(0, 50)
    ),
    max_size=8,
)


@given(STATUSES)
def test_the_chosen_replica_is_ready_and_none_that_is_ready_has_less_to_do(statuses):
    chosen = policy.choose_replica(statuses)
    ready = [status.in_flight for status in statuses if status.state is ReplicaState.READY]
    if chosen is None:
        assert not ready
    else:
        assert statuses[chosen].state is ReplicaState.READY
        assert statuses[chosen].in_flight == min(ready)


@given(STATUSES.filter(bool))
def test_a_deployment_is_ready_exactly_if_all_replicas_are(statuses):
    state = policy.deployment_state(statuses)
    assert (state is DeploymentState.READY) == all(each.state is ReplicaState.READY for each in statuses)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([ReplicaState.STARTING], DeploymentState.STARTING),
        ([ReplicaState.READY, ReplicaState.RESTARTING], DeploymentState.DEGRADED),
        ([ReplicaState.RESTARTING], DeploymentState.DEGRADED),
        ([ReplicaState.FAILED, ReplicaState.FAILED], DeploymentState.FAILED),
        ([ReplicaState.FAILED, ReplicaState.READY], DeploymentState.DEGRADED),
    ],
)
def test_a_deployment_shows_the_worst_that_matters(states, expected):
    assert policy.deployment_state([ReplicaStatus(name="r", state=state) for state in states]) is expected


def test_a_model_of_exactly_the_tiers_size_is_served_and_one_byte_more_is_not():
    policy.require_model_size(1000, max_model_size=1000)
    with pytest.raises(ModelSizeExceededError):
        policy.require_model_size(1001, max_model_size=1000)


def test_health_counts_limits_as_refusals_faults_as_failures_and_the_rest_as_the_callers():
    limit = RateLimitExceededError(
        limit_name="x", limit=1, current=1, reset_time=datetime(2026, 11, 23, tzinfo=UTC), retry_after=1
    )
    assert policy.refusal_kind(limit) is OutcomeKind.REFUSED
    assert policy.refusal_kind(OverloadedError("x")) is OutcomeKind.FAILED
    assert policy.refusal_kind(ProcessingError("x")) is OutcomeKind.FAILED
    assert policy.refusal_kind(NotFoundError("x")) is OutcomeKind.REJECTED
    assert policy.outcome_kind(Outcome.CANCELLED) is OutcomeKind.SUCCESS
    assert policy.outcome_kind(Outcome.FAILED) is OutcomeKind.FAILED
    assert policy.outcome_kind(Outcome.FAILED, error=ProcessingError("x")) is OutcomeKind.FAILED
    assert policy.outcome_kind(Outcome.FAILED, error=ValidationError("x")) is OutcomeKind.REJECTED
    full = StorageQuotaExceededError(usage=1, quota=1, required=1)
    assert policy.outcome_kind(Outcome.FAILED, error=full) is OutcomeKind.REFUSED


@given(st.integers(1, 3000), st.none() | st.integers(1, 3000), st.integers(2, 2048))
def test_what_is_reserved_never_exceeds_the_context_and_covers_what_was_asked(prompt, asked, limit):
    try:
        largest = policy.require_context(prompt_tokens=prompt, max_tokens=asked, context_limit=limit)
    except ContextLengthExceededError:
        assert prompt + (asked or 1) > limit
        return
    assert prompt + (asked or 1) <= largest <= limit


def test_a_tenant_has_a_bounded_number_of_engines():
    policy.require_replicas(wanted=8, running=8)
    with pytest.raises(RequestTooLargeError):
        policy.require_replicas(wanted=1, running=16)
