"""What the overview shows, one dataclass per row of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRow:
    """A tenant and what it used this month; storage in bytes."""

    name: str
    tier: str
    status: str
    requests_used: int
    requests_quota: int
    tokens: int
    storage_used: int
    storage_quota: int
    health: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A registered model; `bits_per_weight` and the address `report` are None if it is not ternary."""

    tenant: str
    name: str
    kind: str
    size_bytes: int
    bits_per_weight: float | None
    state: str
    replicas_ready: int
    replicas: int
    report: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """A layer that a quantization has finished."""

    name: str
    strategy: str
    planes: int
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A quantization; `total_layers` is None until it is planned, `layers` are the newest of an open one."""

    tenant: str
    model_name: str
    source: str
    state: str
    is_open: bool
    finished_layers: int
    total_layers: int | None
    error: str | None
    layers: tuple[LayerRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityEventRow:
    """A refusal that may be part of an attack; `source` is an address or a network."""

    timestamp: datetime
    event_type: str
    reason: str
    source: str | None
    tenant: str | None
    resource: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRow:
    """An address that is refused for a while."""

    address: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHeadRow:
    """The signed head of the audit log; `root` in hex."""

    origin: str
    size: int
    root: str
    verifier_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything the overview page shows, read at one moment; `audit` is None before the first entry."""

    read_at: datetime
    month: str
    is_ready: bool
    tenants: tuple[TenantRow, ...]
    models: tuple[ModelRow, ...]
    jobs: tuple[JobRow, ...]
    security_events: tuple[SecurityEventRow, ...]
    blocks: tuple[BlockRow, ...]
    audit: AuditHeadRow | None
    audit_problem: str | None = None
