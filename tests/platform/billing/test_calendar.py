"""What fails for one tenant in a run of the calendar, while the others are billed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from uuid import UUID

import pytest
import structlog

from tritium_platform.adapters.billing_schedule import open_schedules
from tritium_platform.billing.calendar import BillingCalendar
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.errors import ConflictError, PlatformError
from tritium_platform.tenancy.model import Tenant, TenantTier

SECRET = "postgresql://postgres:hunter2@db"


class Breaking:
    """Services that fail for some tenants."""

    def __init__(self, service, failures):
        self._service = service
        self._failures = failures
        self.asked = []

    def __getattr__(self, name):
        return getattr(self._service, name)

    async def generate_until(self, tenant_id, **more):
        self.asked.append(tenant_id)
        if tenant_id in self._failures:
            raise self._failures[tenant_id]
        return await self._service.generate_until(tenant_id, **more)

    async def expire(self):
        raise KeyError(SECRET)


def calendar_of(shop, tenants, *, invoices=None, grants=None):
    class Tenants:
        async def list_tenants(self):
            return [Tenant(each, "Acme", TenantTier.TEAM, shop.clock.now()) for each in tenants]

    desk = shop.desk
    return BillingCalendar(
        invoices=invoices or desk.invoices,
        settlement=desk.settlement,
        grants=grants or desk.grants,
        tenants=Tenants(),
        clock=shop.clock,
        grace_days=0,
    )


async def past_month(shop):
    await shop.prices.publish_prices(default_price_version())
    await shop.use(1_000_000)
    while shop.clock.now().month == 9:
        shop.clock.advance(seconds=86_400)


async def test_an_error_that_nobody_foresaw_keeps_no_other_tenant_from_being_billed(shop):
    await past_month(shop)
    broken, refused = UUID(int=1), UUID(int=2)
    failures = {broken: RuntimeError(SECRET), refused: ConflictError("No.")}
    invoices = Breaking(shop.desk.invoices, failures)
    calendar = calendar_of(shop, [broken, refused, shop.tenant_id], invoices=invoices)
    with structlog.testing.capture_logs() as logs, pytest.raises(PlatformError, match="1 errors") as caught:
        await calendar.run()
    assert SECRET not in str(caught.value)
    assert invoices.asked == [broken, refused, shop.tenant_id]
    (invoice,) = await shop.desk.invoices.list(limit=9)
    assert (invoice.tenant_id, bool(invoice.number)) == (shop.tenant_id, True)  # finalized in the same run
    first, second = logs[:2]
    place = first.pop("place")
    assert place.startswith("billing/calendar.py:")
    assert first == {
        "event": "invoice_not_generated",
        "log_level": "error",
        "reason": "RuntimeError",
        "tenant_id": str(broken),
    }
    assert (second["log_level"], second["tenant_id"]) == ("warning", str(refused))
    assert SECRET not in repr(logs)


async def test_a_failure_that_was_foreseen_is_counted_and_the_run_is_done(shop):
    await past_month(shop)
    refused = UUID(int=2)
    invoices = Breaking(shop.desk.invoices, {refused: ConflictError("No.")})
    run = await calendar_of(shop, [refused, shop.tenant_id], invoices=invoices).run()
    assert (run.generated, run.finalized, run.failed) == (1, 1, 1)


async def test_what_is_not_of_one_tenant_keeps_nobody_from_being_billed_either(shop):
    await past_month(shop)
    calendar = calendar_of(shop, [shop.tenant_id], grants=Breaking(shop.desk.grants, {}))
    with pytest.raises(PlatformError):
        await calendar.run()
    (invoice,) = await shop.desk.invoices.list(limit=9)
    assert invoice.number


async def test_dunning_that_fails_keeps_nobody_from_being_billed(shop):
    await past_month(shop)

    async def fail():
        raise PlatformError("Dunning met an error.")

    payments = SimpleNamespace(dunning=SimpleNamespace(run=fail))
    desk = SimpleNamespace(payments=payments, calendar=calendar_of(shop, [shop.tenant_id]))
    loop = asyncio.get_running_loop()
    by_calendar, *_ = open_schedules(desk, reconciliation=None, scores=None, canary=None, loop=loop)
    with pytest.raises(PlatformError, match="Dunning"):
        await by_calendar._work()
    (invoice,) = await shop.desk.invoices.list(limit=9)
    assert invoice.number
