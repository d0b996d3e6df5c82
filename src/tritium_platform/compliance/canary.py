"""A synthetic customer with a known answer: uses go in, a draft comes out, and it must say what is expected.

Every hour has a customer of its own, named by the hour, so that nothing but its own uses is on its invoice
and a run that is repeated changes nothing. It is in no list of tenants: nobody can call in its name, the
calendar does not bill it, and no report of what was used or earned counts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol
from uuid import NAMESPACE_URL, UUID, uuid5

from tritium_platform.billing.rating.plan_json import plan_from_dict
from tritium_platform.billing.rating.tax import TaxStatus
from tritium_platform.billing.reconciliation.model import Check, Difference
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.tenancy.model import TIER_LIMITS, TenantContext, TenantTier
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from tritium_platform.billing.desk import BillingDesk
    from tritium_platform.metering.service import MeteringService
    from tritium_platform.quotas.service import QuotaService
    from tritium_platform.values import Clock, UnitOfWork

SOURCE = "canary"
USES = ((1_000, 70), (2_500, 101), (333, 29))  # input and output tokens
INCLUDED, PACKAGE, PACKAGE_PRICE, SEAT = 400, 7, 9, 1_000
PLAN = {
    "name": "canary",
    "currency": "EUR",
    "charges": [
        {"name": "seat", "price": {"kind": "flat", "amount": str(SEAT)}},
        {
            "name": "input",
            "meter": "input_tokens",
            "included": INCLUDED,
            "price": {"kind": "per_unit", "unit_price": "1/4"},
        },
        {
            "name": "output",
            "meter": "output_tokens",
            "price": {"kind": "package", "size": PACKAGE, "amount": str(PACKAGE_PRICE)},
        },
    ],
    "taxes": [
        {
            "jurisdiction": "DE",
            "category": "standard",
            "valid_from": "2020-01-01T00:00:00+00:00",
            "rate": "0.19",
        }
    ],
}


def known_answer() -> int:
    """Return what the draft comes to, in cents; it shares nothing with the engine that prices invoices."""
    quarters = sum(used for used, _ in USES) - INCLUDED
    packages = -(-sum(used for _, used in USES) // PACKAGE)
    nets = [SEAT, (quarters + 2) // 4, packages * PACKAGE_PRICE]
    return sum(net + (net * 19 + 50) // 100 for net in nets)


class Alarm(Protocol):
    """Tells the operator that the books contradict themselves."""

    async def differs(self, difference: Difference, *, run_id: UUID) -> None:
        """Raise the alarm about one difference."""


@dataclass(frozen=True, kw_only=True)
class Canary:
    """Bills the synthetic customer of the hour by the services that bill everybody."""

    desk: BillingDesk
    quotas: QuotaService
    metering: MeteringService
    unit_of_work: UnitOfWork
    clock: Clock
    alarm: Alarm

    async def run(self) -> Difference | None:
        """Use, price, compare; return the difference, after the alarm about it."""
        hour = self.clock.now().replace(minute=0, second=0, microsecond=0)
        tenant_id = uuid5(NAMESPACE_URL, f"urn:tritium:canary:{hour.isoformat()}")
        await self._sign(tenant_id, hour=hour)
        for number, (read, written) in enumerate(USES):
            record = _record(tenant_id, number=number, at=hour, read=read, written=written)
            for _ in range(2):  # a client that sends everything twice pays once
                await self._use(record)
        preview = await self.desk.invoices.preview(tenant_id, period=CalendarMonth.of(hour))
        month = await self.quotas.usage_of_month(_context(tenant_id))
        expected = {"total": known_answer(), "requests": len(USES)}
        found = {"total": preview.total_minor, "requests": month.used}
        if found == expected:
            return None
        difference = Difference(
            check=Check.CANARY,
            subject=f"the canary of {hour.isoformat()}",
            tenant_id=tenant_id,
            month=str(CalendarMonth.of(hour)),
            expected=str(expected),
            found=str(found),
            look=f"tritiumd invoice preview {tenant_id}; src/tritium_platform/compliance/canary.py says why",
        )
        await self.alarm.differs(difference, run_id=tenant_id)
        return difference

    async def _sign(self, tenant_id: UUID, *, hour: datetime) -> None:
        plan_id = await self.desk.plans.publish(plan_from_dict(PLAN), actor=SOURCE)
        if await self.desk.plans.contracts(tenant_id):
            return
        await self.desk.plans.conclude(
            tenant_id,
            plan=plan_id,
            starts_at=CalendarMonth.of(hour).start,
            ends_at=None,
            payment_days=14,
            tax=TaxStatus("DE"),
            actor=SOURCE,
        )

    async def _use(self, record: UsageRecord) -> None:
        """Reserve, settle and record one use, as the gateway does; a use that is known counts nothing."""
        context = _context(record.tenant_id)
        admission = await self.quotas.reserve_deferred(context, requests=1)
        async with self.unit_of_work():
            if await self.metering.record(record):
                await self.quotas.settle(context, admission=admission, tokens=0)
            else:
                await self.quotas.void(context, admission=admission)


def _context(tenant_id: UUID) -> TenantContext:
    return TenantContext(
        tenant_id=tenant_id,
        organization_name=SOURCE,
        tier=TenantTier.TEAM,
        limits=TIER_LIMITS[TenantTier.TEAM],
        key_id="",
        scopes=frozenset(),
    )


def _record(tenant_id: UUID, *, number: int, at: datetime, read: int, written: int) -> UsageRecord:
    return UsageRecord(
        id=uuid5(tenant_id, str(number)),
        tenant_id=tenant_id,
        source=SOURCE,
        event_id=str(number),
        operation=OperationType.CHAT,
        tier=TenantTier.TEAM,
        outcome="success",
        occurred_at=at + timedelta(milliseconds=number),
        quantities=UsageQuantities(input_tokens=read, output_tokens=written),
        resources=ResourceUsage(),
        model=SOURCE,
    )
