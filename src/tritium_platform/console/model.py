"""What the overview shows, one dataclass per row of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium_platform.values import Money

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.insight.analytics import UsagePoint, UsageSummary
    from tritium_platform.insight.score import HealthScore
    from tritium_platform.insight.scores import KeptScore


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerRow:
    """A tenant and its health at the end of the running hour."""

    tenant_id: UUID
    name: str
    tier: str
    status: str
    health: HealthScore


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerPage:
    """One tenant: its health, its last seven days, and the scores that were kept, newest first."""

    row: CustomerRow
    summary: UsageSummary
    days: tuple[UsagePoint, ...]
    kept: tuple[KeptScore, ...]
    cap: Money | None

    @property
    def busiest(self) -> int:
        """The uses of the busiest of the days; 1 for bars to be drawn beside if there are none."""
        return max((each.uses for each in self.days), default=1)

    @property
    def spent(self) -> Money:
        """What was spent this month by the price list."""
        month = self.summary.month_end
        return Money(round(month.spent_micro / 1_000_000), month.currency)

    @property
    def expected(self) -> Money | None:
        """What the month is expected to come to; None with too little history."""
        month = self.summary.month_end
        if month.expected_micro is None:
            return None
        return Money(round(month.expected_micro / 1_000_000), month.currency)


@dataclass(frozen=True, slots=True)
class SpendAlertRow:
    """A threshold in percent of a cap, and when the month reached it."""

    threshold: int
    reached_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRow:
    """A tenant's cap and what the month has come to; `percent` of it is used."""

    tenant_id: UUID
    name: str
    mode: str
    cap: Money
    used: Money
    held: Money
    remaining: Money
    percent: int
    alerts: tuple[SpendAlertRow, ...]
    would_refuse: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendPage:
    """The caps of all tenants in the running month."""

    period: str
    rows: tuple[SpendRow, ...]
    num_without_cap: int
