"""What is due by the calendar: drafts of the months that ended, their finalization, overdue marks, expiry.

Every part is safe to run twice and at the same time: the database holds a month to one invoice, and whoever
comes second finds nothing to do. So whatever ran half before a crash is finished by the next run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.billing.setbacks import Setbacks
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.billing.grants import GrantService
    from tritium_platform.billing.invoice import Invoice
    from tritium_platform.billing.invoices import InvoiceService
    from tritium_platform.billing.settlement import SettlementService
    from tritium_platform.tenancy.model import Tenant
    from tritium_platform.values import Clock

ACTOR = "calendar"
PAGE = 100
DAY = timedelta(days=1)


class Tenants(Protocol):
    """Knows the tenants."""

    async def list_tenants(self) -> Sequence[Tenant]:
        """Return all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalendarRun:
    """What one run did: counts."""

    generated: int
    finalized: int
    overdue: int
    expired: int
    failed: int


class BillingCalendar:
    """Does what is due.

    Args:
        invoices: makes and finalizes invoices.
        settlement: marks what is overdue.
        grants: takes back what expired.
        tenants: who is billed.
        clock: the time.
        grace_days: how long after its month a draft waits for late use before it is finalized; None: for
            the operator.
    """

    def __init__(
        self,
        *,
        invoices: InvoiceService,
        settlement: SettlementService,
        grants: GrantService,
        tenants: Tenants,
        clock: Clock,
        grace_days: int | None,
    ) -> None:
        self._invoices = invoices
        self._settlement = settlement
        self._grants = grants
        self._tenants = tenants
        self._clock = clock
        self._grace_days = grace_days

    async def run(self) -> CalendarRun:
        """Do everything that is due now; what fails for one tenant is logged and left for the next run.

        Raises:
            PlatformError: an error that nobody foresaw was among it; the other tenants are billed.
        """
        setbacks = Setbacks()
        generated = expired = overdue = 0
        with setbacks.logged("credit_not_expired"):
            expired = await self._grants.expire()  # first; but what has expired pays for nothing anyway
        last = CalendarMonth.of(CalendarMonth.of(self._clock.now()).start - DAY)
        for tenant in await self._tenants.list_tenants():
            with setbacks.logged("invoice_not_generated", tenant_id=str(tenant.id)):
                generated += await self._invoices.generate_until(tenant.id, last=last, actor=ACTOR)
        finalized = await self._finalize(setbacks)
        with setbacks.logged("overdue_not_marked"):
            overdue = await self._settlement.mark_overdue()
        setbacks.report("The billing calendar")
        return CalendarRun(
            generated=generated,
            finalized=finalized,
            overdue=overdue,
            expired=expired,
            failed=setbacks.failed,
        )

    async def _finalize(self, setbacks: Setbacks) -> int:
        if self._grace_days is None:
            return 0
        done, after = 0, None
        drafts: list[Invoice] = []
        while True:
            page = await self._invoices.list(statuses=(InvoiceStatus.DRAFT,), limit=PAGE, after=after)
            drafts += page
            if len(page) < PAGE:
                break
            after = page[-1].id
        for draft in sorted(drafts, key=lambda each: (each.period, each.id)):
            if self._clock.now() < draft.period.end + self._grace_days * DAY:
                continue
            with setbacks.logged(
                "invoice_not_finalized", invoice_id=str(draft.id), tenant_id=str(draft.tenant_id)
            ):
                await self._invoices.finalize(draft.id, actor=ACTOR)
                done += 1
        return done
