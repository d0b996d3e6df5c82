"""Reconciliation: runs that compared the books with themselves, and what they found."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from tritium_platform.api.deps import ThePlatform, admin, admin_key
from tritium_platform.api.invoices import Limit

if TYPE_CHECKING:
    from tritium_platform.billing.reconciliation.model import ReconciliationRun

router = APIRouter(
    prefix="/api/v1/billing/reconciliations", tags=["billing"], dependencies=[admin_key, admin]
)


class DifferenceOut(BaseModel):
    """Two figures that should be one, what they are about, and where to look further."""

    check: str
    subject: str
    expected: str
    found: str
    tenant_id: UUID
    month: str
    account: str
    look: str


class ReconciliationOut(BaseModel):
    """A run: how many of each were looked at, how many differences there are, and the first of them."""

    id: UUID
    started_at: datetime
    finished_at: datetime
    counted: dict[str, int]
    num_differences: int
    differences: list[DifferenceOut]


class ReconciliationPage(BaseModel):
    """Runs, newest first; `next_after` continues the page."""

    reconciliations: list[ReconciliationOut]
    next_after: UUID | None


@router.post("", status_code=201)
async def reconcile(platform: ThePlatform) -> ReconciliationOut:
    """Compare uses, counters, invoice lines, journal and payments now; every difference is an alarm, too."""
    run = await platform.reconciliation.run()
    platform.metrics.reconciled(run)
    return reconciliation_out(run)


@router.get("")
async def list_reconciliations(
    platform: ThePlatform, limit: Limit = 20, after: UUID | None = None
) -> ReconciliationPage:
    """List runs, newest first."""
    found = await platform.reconciliation.recent(limit=limit, after=after)
    return ReconciliationPage(
        reconciliations=[reconciliation_out(run) for run in found],
        next_after=found[-1].id if len(found) == limit else None,
    )


def reconciliation_out(run: ReconciliationRun) -> ReconciliationOut:
    """Spell a run as JSON."""
    return ReconciliationOut(
        id=run.id,
        started_at=run.started_at,
        finished_at=run.finished_at,
        counted=dict(run.counted),
        num_differences=run.num_differences,
        differences=[
            DifferenceOut(
                check=each.check.value,
                subject=each.subject,
                expected=each.expected,
                found=each.found,
                tenant_id=each.tenant_id,
                month=each.month,
                account=each.account,
                look=each.look,
            )
            for each in run.differences
        ],
    )
