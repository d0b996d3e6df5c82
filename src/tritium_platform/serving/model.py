"""The nouns of serving: registered models, deployments, their replicas and what a replica reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.tenancy.model import TenantTier

from tritium_platform.metering.model import ResourceUsage, UsageQuantities


class ModelKind(StrEnum):
    """What a model gives back."""

    GENERATE = "generate"
    EMBED = "embed"


class ReplicaState(StrEnum):
    """Where one engine process is in its life."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    FAILED = "failed"
    STOPPED = "stopped"


class DeploymentState(StrEnum):
    """What a tenant sees of a deployment; derived from its replicas, except `deleting`.

    One that is `unloaded` is not in memory; the next request for it loads it.
    """

    UNLOADED = "unloaded"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    FAILED = "failed"
    DELETING = "deleting"


class Outcome(StrEnum):
    """How a request that was admitted ended."""

    SUCCESS = "success"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How a generation went in its engine: seconds in the queue, tokens of the prompt that it had computed.

    `finish_reason` is None if it was cut off.
    """

    queue_seconds: float
    prompt_tokens: int
    cached_tokens: int
    finish_reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Consumption:
    """What a request used: quantities for the bill, resources of the machine.

    `tokens` count against the rate of tokens; `is_counted` says whether the request counts against the quota
    (one that failed without giving anything does not); `course` is there if an engine generated.
    """

    quantities: UsageQuantities = field(default_factory=UsageQuantities)
    resources: ResourceUsage = field(default_factory=ResourceUsage)
    tokens: int = 0
    is_counted: bool = True
    course: Course | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredModel:
    """A model a tenant owns: a directory on the platform's disk, reachable under `name`.

    `size_bytes` counts the weights as they are stored; `source` says where the directory came from.
    """

    id: UUID
    tenant_id: UUID
    name: str
    path: str
    kind: ModelKind
    size_bytes: int
    source: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """One model of one tenant, served by `replicas` engine processes under `name`.

    One that is pinned stays in memory; any other leaves it when the room is needed and nobody uses it.
    """

    id: UUID
    tenant_id: UUID
    model_id: UUID
    name: str
    replicas: int
    threads: int
    memory_limit_bytes: int
    created_at: datetime
    is_pinned: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Alias:
    """A name of a tenant that stands for a deployment, or for another alias; `target` is that one's name."""

    tenant_id: UUID
    name: str
    target: str
    changed_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What an engine process says of its model; the positions are those of prompt and answer together.

    `places` is how much it takes at a time without letting it wait: generations, or inputs to embed.
    """

    kind: ModelKind
    vocabulary_size: int
    maximum_positions: int
    places: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLoad:
    """What an engine has to do at one moment.

    Attributes:
        running: requests that share its steps.
        waiting: requests that hold no place yet.
        kv_blocks_used: blocks of the key-value cache somebody holds, of `kv_blocks`.
        preemptions: how often a request lost its blocks or its place to another, since the engine started.
        memory_pressure: how short memory is for the process, 0 to 1 and above.
        pressure_rung: what the engine does about it: 0 nothing, 1 empty caches, 2 run fewer requests, 3 take
            no new ones.
        evicted_blocks: blocks of the cache whose memory it gave back for that, since it started.
    """

    running: int = 0
    waiting: int = 0
    kv_blocks_used: int = 0
    kv_blocks: int = 0
    preemptions: int = 0
    memory_pressure: float = 0.0
    pressure_rung: int = 0
    evicted_blocks: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReading:
    """What one engine has to do, with the labels under which the operator sees it."""

    model: str
    tier: TenantTier
    replica: str
    load: EngineLoad


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaStatus:
    """One replica at one moment; `resident_bytes` is the process's memory, `last_error` why it last fell.

    Memory and load are those of its last heartbeat, a second ago at most.
    """

    name: str
    state: ReplicaState
    in_flight: int = 0
    restarts: int = 0
    process_id: int | None = None
    resident_bytes: int = 0
    load: EngineLoad = field(default_factory=EngineLoad)
    last_error: str | None = None
    facts: ModelFacts | None = field(default=None)
