"""The decisions of serving as pure functions: which replica, how much memory, what state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.engine.pressure import Rung
from tritium.engine.request import ContextLengthExceededError
from tritium_platform.errors import (
    ModelSizeExceededError,
    PlatformError,
    ProcessingError,
    RequestTooLargeError,
    ResourceError,
    SpendCapReachedError,
    StorageQuotaExceededError,
    ValidationError,
)
from tritium_platform.insight.health import OutcomeKind
from tritium_platform.serving.model import DeploymentState, Outcome, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.errors import BitNetServiceError
    from tritium_platform.serving.model import RegisteredModel, ReplicaStatus

# Address space an engine needs besides its weights: the interpreter, libraries, thread stacks, the KV cache.
_BASE_ADDRESS_SPACE = 6 * 1024**3
_WEIGHT_COPIES = 3
MAX_TENANT_REPLICAS = 16


def choose_replica(statuses: Sequence[ReplicaStatus]) -> int | None:
    """Return the index of the ready replica with the fewest requests in flight; None if none is ready."""
    ready = [index for index, status in enumerate(statuses) if status.state is ReplicaState.READY]
    return min(ready, key=lambda index: statuses[index].in_flight, default=None)


def has_place(status: ReplicaStatus, *, taken: int, size: int) -> bool:
    """Tell whether a replica could begin with a request of `size` places now, `taken` of its places being so.

    One that has nothing to do begins with whatever comes. One in which requests wait although it has places
    is short of something else.
    """
    if status.state is not ReplicaState.READY or status.facts is None:
        return False
    is_held_up = status.load.waiting > 0 or status.load.pressure_rung >= Rung.REFUSE
    return not taken or (taken + size <= status.facts.places and not is_held_up)


def deployment_state(statuses: Sequence[ReplicaStatus]) -> DeploymentState:
    """Derive what a tenant sees from what the replicas are."""
    states = {status.state for status in statuses}
    if states == {ReplicaState.READY}:
        return DeploymentState.READY
    if ReplicaState.READY in states:
        return DeploymentState.DEGRADED
    if states == {ReplicaState.FAILED}:
        return DeploymentState.FAILED
    if ReplicaState.RESTARTING in states or ReplicaState.FAILED in states:
        return DeploymentState.DEGRADED
    return DeploymentState.STARTING


def memory_limit_for(model: RegisteredModel) -> int:
    """Return the address-space limit in bytes for an engine that serves `model`.

    Address space counts mappings that never become resident, so the limit is generous: it stops a runaway.
    """
    return _BASE_ADDRESS_SPACE + _WEIGHT_COPIES * model.size_bytes


def require_model_size(size: int, *, max_model_size: int) -> None:
    """Refuse a model of `size` bytes that is larger than the tenant's tier serves.

    Raises:
        ModelSizeExceededError: details: limit, current (bytes).
    """
    if size > max_model_size:
        raise ModelSizeExceededError(limit=max_model_size, current=size)


def require_replicas(*, wanted: int, running: int) -> None:
    """Refuse a deployment that would give a tenant more engine processes than one may have.

    Raises:
        RequestTooLargeError: details: limit, current.
    """
    if wanted + running > MAX_TENANT_REPLICAS:
        raise RequestTooLargeError(
            limit_name="replicas of all deployments", limit=MAX_TENANT_REPLICAS, current=wanted + running
        )


def require_context(*, prompt_tokens: int, max_tokens: int | None, context_limit: int) -> int:
    """Return the tokens that prompt and answer can have at most.

    Raises:
        ContextLengthExceededError: the prompt, or what was asked for, does not fit.
    """
    if prompt_tokens >= context_limit:
        raise context_exceeded("The prompt", tokens=prompt_tokens, context_limit=context_limit)
    if max_tokens is None:
        return context_limit
    if prompt_tokens + max_tokens > context_limit:
        raise context_exceeded(
            "Prompt and max_tokens", tokens=prompt_tokens + max_tokens, context_limit=context_limit
        )
    return prompt_tokens + max_tokens


def context_exceeded(what: str, *, tokens: int, context_limit: int) -> ContextLengthExceededError:
    """Return the error that says what does not fit and by how much."""
    return ContextLengthExceededError(
        f"{what}: {tokens} tokens; the model takes {context_limit}, the answer included. Make it shorter.",
        limit_name="context_length",
        limit=context_limit,
        current=tokens,
    )


def outcome_kind(outcome: Outcome, *, error: BaseException | None = None) -> OutcomeKind:
    """Say what a request's end means for the customer's health; who left was served until then.

    What is found wrong with a request only later is the request's own fault as at admission, and a limit that
    it meets only then is a limit.
    """
    if isinstance(error, ValidationError | SpendCapReachedError | StorageQuotaExceededError):
        return refusal_kind(error)
    return OutcomeKind.FAILED if outcome is Outcome.FAILED else OutcomeKind.SUCCESS


def refusal_kind(error: BitNetServiceError) -> OutcomeKind:
    """Say what a refusal means for the customer's health: a limit, our fault, or the request's own."""
    if isinstance(error, ResourceError):
        return OutcomeKind.REFUSED
    is_ours = isinstance(error, PlatformError | ProcessingError)
    return OutcomeKind.FAILED if is_ours else OutcomeKind.REJECTED
