"""What the management routes read and write, as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from tritium_platform.api.insight_schemas import HealthOut
from tritium_platform.api.moments import Moment
from tritium_platform.api.spend_schemas import SpendCapOut
from tritium_platform.tenancy.model import ALL_SCOPES, Scope, TenantStatus, TenantTier

Name = Annotated[str, Field(min_length=1, max_length=200)]
# Texts may stand for ids, times and enums, which JSON does not have; numbers are taken literally.
_INPUT = ConfigDict(extra="forbid", frozen=True)
StrictInt = Annotated[int, Field(strict=True)]


class Problem(BaseModel):
    """An error as RFC 9457 writes it, with what the caller can do about it."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    code: str
    category: str | None = None
    recovery: str | None = None
    instance: str | None = None


# What a management route may answer instead of what it is for.
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "model": Problem,
        "description": "What went wrong and what to do",
        "content": {"application/problem+json": {}},
    }
}


class ExpectationOut(BaseModel):
    """When work is expected to be done, and the interval that holds its end in about four of five cases."""

    at: datetime
    earliest: datetime
    latest: datetime


class NewTenant(BaseModel):
    """A tenant to create."""

    model_config = _INPUT
    organization_name: Name
    tier: TenantTier
    limit_overrides: dict[str, StrictInt] = {}


class TenantChange(BaseModel):
    """What to change of a tenant; what is left out stays."""

    model_config = _INPUT
    tier: TenantTier | None = None
    status: TenantStatus | None = None
    limit_overrides: dict[str, StrictInt] | None = None


class TenantOut(BaseModel):
    """A tenant."""

    id: UUID
    organization_name: str
    tier: TenantTier
    status: TenantStatus
    limit_overrides: dict[str, int]
    created_at: datetime


class NewKey(BaseModel):
    """A key to create."""

    model_config = _INPUT
    name: Name
    scopes: Annotated[frozenset[Scope], Field(min_length=1)] = ALL_SCOPES
    expires_at: Moment | None = None


class KeyOut(BaseModel):
    """A key without its secret."""

    id: str
    tenant_id: UUID
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKeyOut(KeyOut):
    """A new key with its secret, which is shown this once."""

    key: str


class NewModel(BaseModel):
    """A checkpoint directory on the platform's disk, below an allowed root."""

    model_config = _INPUT
    name: Annotated[str, Field(min_length=1, max_length=100)]
    path: Annotated[str, Field(min_length=1, max_length=4096)]


class ModelOut(BaseModel):
    """A registered model."""

    id: UUID
    name: str
    kind: str
    size_bytes: int
    source: str
    created_at: datetime


class ReportOut(BaseModel):
    """What a quantization measured; a part that was not measured is null and says why."""

    quantization: dict[str, Any] | None
    metrics: dict[str, Any] | None
    validation_report: dict[str, Any] | None


class NewDeployment(BaseModel):
    """A deployment to create; the name defaults to the model's."""

    model_config = _INPUT
    model: Annotated[str, Field(min_length=1, max_length=100)]
    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    replicas: Annotated[StrictInt, Field(ge=1, le=8)] = 1


class ModelSwap(BaseModel):
    """The model that a deployment shall serve from now on, by name or id."""

    model_config = _INPUT
    model: Annotated[str, Field(min_length=1, max_length=100)]


class DeploymentPin(BaseModel):
    """Whether a deployment stays in memory."""

    model_config = _INPUT
    is_pinned: bool


class ReplicaOut(BaseModel):
    """One engine process."""

    name: str
    state: str
    in_flight: int
    restarts: int
    resident_bytes: int
    last_error: str | None


class DeploymentOut(BaseModel):
    """A deployment and its replicas."""

    id: UUID
    name: str
    model_id: UUID
    state: str
    is_pinned: bool
    replicas: list[ReplicaOut]
    created_at: datetime


class AliasTarget(BaseModel):
    """Where an alias leads: the name of a deployment or of another alias."""

    model_config = _INPUT
    target: Annotated[str, Field(min_length=1, max_length=100)]


class AliasOut(BaseModel):
    """An alias, and the deployment at the end of the chain."""

    name: str
    target: str
    deployment: str
    changed_at: datetime


class LimitsOut(BaseModel):
    """The limits of a tenant."""

    monthly_quota: int
    max_model_size: int
    requests_per_minute: int
    tokens_per_minute: int
    max_concurrent_requests: int
    max_storage: int
    events_per_minute: int


class QuotaOut(BaseModel):
    """What is used, held by requests in flight, and left."""

    limit: int
    used: int
    held: int
    remaining: int


class AccountOut(BaseModel):
    """Who the caller is and what is left."""

    tenant_id: UUID
    organization_name: str
    tier: TenantTier
    key_id: str
    scopes: list[Scope]
    limits: LimitsOut
    requests_this_month: QuotaOut
    storage: QuotaOut
    health: HealthOut
    spend_cap: SpendCapOut | None


class UsageTotalOut(BaseModel):
    """The sum of one meter at one tier."""

    tier: TenantTier
    meter: str
    quantity: int


class UsageRecordOut(BaseModel):
    """One use."""

    id: UUID
    operation: str
    outcome: str
    model: str
    tier: TenantTier
    key_id: str | None
    occurred_at: datetime
    quantities: dict[str, int]
    resources: dict[str, int]
    source: str
    event_id: str
    dimensions: dict[str, str]
    received_at: datetime | None


class RefusedEvent(Problem):
    """An event of a batch that was not counted, by its place in the batch (from 0), and why."""

    index: int
    source: str
    id: str


class IngestionOut(BaseModel):
    """What became of events: all of them are in the books but for the refused and the deferred ones.

    `duplicates` are the places of those that were there before, or twice in the batch. `deferred` are those
    of events that are durable, and come into the books when the database is back; an event under whose id
    there is another one then is not counted, and the audit log says so.
    """

    accepted: int
    duplicates: list[int]
    deferred: list[int]
    refused: list[RefusedEvent]


class UsageOut(BaseModel):
    """A month's usage: sums, and a page of records; `next_after` continues the page."""

    period: str
    totals: list[UsageTotalOut]
    records: list[UsageRecordOut]
    next_after: UUID | None


class InvoiceLineOut(BaseModel):
    """One line: the exact amount is a fraction of the minor unit, `amount_minor` its one rounding.

    `starts_at` and `ends_at` say which part of a month it is about whose plan changes within it.
    """

    period: str
    starts_at: datetime | None
    ends_at: datetime | None
    charge: str
    cell: list[str]
    tier: TenantTier | None
    meter: str | None
    quantity: int
    included: int
    unit_price_minor: str | None
    exact_minor: str
    amount_minor: int
    discount_minor: int
    tax_minor: int


class InvoicePreviewOut(BaseModel):
    """What the invoice would say now; amounts less discounts, and taxes, sum to the total."""

    tenant_id: UUID
    period: str
    currency: str
    plan_id: str
    lines: list[InvoiceLineOut]
    total_minor: int
    total: str
    generated_at: datetime


class CheckpointOut(BaseModel):
    """The head of the audit log: the signed note, and the key that verifies it."""

    origin: str
    size: int
    root_hash: str
    note: str
    verifier_key: str


class HealthStatus(BaseModel):
    """Whether the platform lives, or takes requests."""

    status: str
    details: dict[str, Any] = {}
