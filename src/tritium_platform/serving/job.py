"""The nouns of quantization jobs: what was asked, how far it is, what became of each layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tritium_platform.quotas.model import ALWAYS, QuotaMeter, Reservation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.tenancy.model import TenantTier


class JobState(StrEnum):
    """Where a job is in its life; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing changes any more."""
        return self in FINAL_STATES


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
OPEN_STATES = frozenset(JobState) - FINAL_STATES
# What a tenant gave us to read is not kept longer than the job needs it.
TEXTS = frozenset({"calibration_text", "validation_text"})


@dataclass(frozen=True, kw_only=True, slots=True)
class JobLayer:
    """What became of one layer; `loss` is the error it was judged by, `seconds` its measured wall time."""

    index: int
    name: str
    strategy: str
    planes: int
    loss: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationJob:
    """One quantization that a tenant asked for.

    Attributes:
        source: what the tenant named, to show it again.
        source_path: the directory of the checkpoint on the platform's disk.
        model_name: under which the result is registered; its model id is the job's id.
        config: plain values for `tritium.quantize.QuantizationConfig`; without its texts once it is over.
        storage_reservation: what was set aside for the result, and how many bytes; what it costs is set aside
            under the job's own id.
        total_layers: None until the job is planned.
        error_code, error_message, error_recovery: why it failed, and what the tenant can do about it.
    """

    id: UUID
    tenant_id: UUID
    tier: TenantTier
    key_id: str
    source: str
    source_path: str
    model_name: str
    config: Mapping[str, Any]
    storage_reservation: UUID
    storage_bytes: int
    created_at: datetime
    state: JobState = JobState.QUEUED
    started_at: datetime | None = None
    finished_at: datetime | None = None
    total_layers: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_recovery: str | None = None
    layers: tuple[JobLayer, ...] = field(default=())

    def closed(self, state: JobState, *, at: datetime) -> QuantizationJob:
        """Return this job in a final state."""
        config = {name: value for name, value in self.config.items() if name not in TEXTS}
        return replace(self, state=state, finished_at=at, config=config)

    @property
    def reservation(self) -> Reservation:
        """The storage that was set aside for the result."""
        return Reservation(
            id=self.storage_reservation,
            tenant_id=self.tenant_id,
            meter=QuotaMeter.STORAGE_BYTES,
            period=ALWAYS,
            amount=self.storage_bytes,
            created_at=self.created_at,
            expires_at=self.created_at,
        )
