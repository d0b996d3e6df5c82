"""The billing calendar as a schedule of DBOS: once an hour in one process, finished after a crash."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog
from dbos import DBOS

from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.money import open_sql_desk
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.billing.invoicing import BillingService

if TYPE_CHECKING:
    from datetime import datetime

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.audit.note import NoteSigner
    from tritium_platform.billing.calendar import BillingCalendar
    from tritium_platform.billing.party import Seller
    from tritium_platform.config import PlatformConfig
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)
WORKFLOW = "bill_by_calendar"
SCHEDULE = "billing calendar"
HOURLY = "17 * * * *"
ATTEMPTS = 5


class BillingSchedule:
    """Has the calendar done; a run is one durable step, tried again when a neighbour was away.

    Args:
        calendar: what is done; it is safe to do twice.
        loop: where the database connections of the calendar live.
        cron: when.
    """

    def __init__(self, calendar: BillingCalendar, *, loop: asyncio.AbstractEventLoop, cron: str) -> None:
        self._calendar = calendar
        self._loop = loop
        self._cron = cron
        self._workflow: Any = None

    def register(self) -> None:
        """Make the workflow known, before DBOS is launched."""

        def run() -> dict[str, int]:
            done = asyncio.run_coroutine_threadsafe(self._calendar.run(), self._loop).result()
            return asdict(done)

        step = DBOS.step(name="bill", retries_allowed=True, max_attempts=ATTEMPTS, interval_seconds=1.0)(run)

        def bill_by_calendar(_scheduled_at: datetime, _context: Any) -> None:
            _log.info("billing_calendar_done", **step())

        self._workflow = DBOS.workflow(name=WORKFLOW)(bill_by_calendar)

    def begin(self) -> None:
        """Put the schedule in force, after DBOS was launched; doing it again changes nothing."""
        DBOS.apply_schedules(
            [{"schedule_name": SCHEDULE, "workflow_fn": self._workflow, "schedule": self._cron}]
        )


def open_schedule(
    config: PlatformConfig,
    *,
    database: Database,
    signer: NoteSigner,
    seller: Seller | None,
    clock: Clock,
    loop: asyncio.AbstractEventLoop,
) -> BillingSchedule:
    """Open the schedule over a database, for the process that launches DBOS."""
    desk = open_sql_desk(
        database,
        prices=BillingService(prices=SqlPriceStore(database), clock=clock),
        tenants=SqlTenantStore(database),
        signer=signer,
        clock=clock,
        grace_days=config.invoice_grace_days,
        seller=seller,
    )
    return BillingSchedule(desk.calendar, loop=loop, cron=HOURLY)
