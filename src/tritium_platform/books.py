"""Where the gateway writes down what happened, and what it asks of the rooms behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.audit.model import AuditIntent
    from tritium_platform.billing.invoicing import BillingService
    from tritium_platform.insight.health import HealthService
    from tritium_platform.metering.service import MeteringService
    from tritium_platform.passage import Telemetry
    from tritium_platform.quotas.model import Reservation
    from tritium_platform.quotas.service import QuotaService
    from tritium_platform.settlement import SettlementJournal
    from tritium_platform.tenancy.model import TenantContext
    from tritium_platform.values import Clock, UnitOfWork


class Outbox(Protocol):
    """Keeps audit intents in the transaction of the change they report."""

    async def add(self, intent: AuditIntent) -> None:
        """Keep an intent."""


class AuditTrail(Protocol):
    """Brings what lies in the outbox into the audit log."""

    async def recover(self) -> int:
        """Log every intent that is in the outbox now and not in the log; return how many were found there."""

    async def close(self) -> None:
        """Let another writer in."""


class FairUse(Protocol):
    """Knows who used more than its share, and what follows from it."""

    def apply(self, context: TenantContext) -> TenantContext:
        """Return what a caller may do now; FairUseSuspendedError if nothing."""

    async def count_refusal(self, tenant_id: UUID, *, code: str) -> None:
        """Write down that a request was refused."""


class Spending(Protocol):
    """Holds tenants to what they may spend in a month."""

    def is_capped(self, tenant_id: UUID) -> bool:
        """Tell whether a tenant has a cap."""

    async def hold(self, context: TenantContext, *, amounts: Sequence[int]) -> list[Reservation]:
        """Reserve the most that requests can cost; SpendCapReachedError if the cap does not leave that."""

    async def settle(self, reservation: Reservation, *, amount: int) -> None:
        """Turn what was reserved into what it cost."""

    async def void(self, reservation_id: UUID, *, tenant_id: UUID) -> None:
        """Give back what was reserved."""


@dataclass(frozen=True, kw_only=True)
class Books:
    """Where the gateway writes down what happened.

    `audit` is None in a process that does not own the audit log: the owner empties the outbox. With a
    `journal` what happens once is settled through it, and taken from leases; without one everything is one
    transaction.
    """

    unit_of_work: UnitOfWork
    quotas: QuotaService
    fair_use: FairUse
    metering: MeteringService
    billing: BillingService
    outbox: Outbox
    audit: AuditTrail | None
    health: HealthService
    telemetry: Telemetry
    clock: Clock
    journal: SettlementJournal | None = None
    spending: Spending | None = None
