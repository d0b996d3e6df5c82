"""What money needs by the clock, as schedules of DBOS: done in one process, finished after a crash.

The billing calendar and dunning run once an hour, the janitor of payments once a minute.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog
from dbos import DBOS

from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.money import open_sql_desk
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.billing.dunning import DunningEnd
from tritium_platform.billing.invoicing import BillingService

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.audit.note import NoteSigner
    from tritium_platform.billing.calendar import BillingCalendar
    from tritium_platform.billing.party import Seller
    from tritium_platform.billing.desk import BillingDesk
    from tritium_platform.billing.dunning import Suspend
    from tritium_platform.billing.payments import PaymentProvider
    from tritium_platform.config import PlatformConfig
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)
WORKFLOW = "bill_by_calendar"
SCHEDULE = "billing calendar"
HOURLY = "17 * * * *"
PAYMENTS_WORKFLOW = "resolve_payments"
PAYMENTS_SCHEDULE = "payments"
EVERY_MINUTE = "* * * * *"
ATTEMPTS = 5


class BillingSchedule:
    """Has the desk's rounds done; each is one durable step, tried again when a neighbour was away.

    Args:
        desk: whose rounds are safe to do twice.
        loop: where the database connections of the desk live.
        cron: when the calendar is looked at.
    """

    def __init__(self, desk: BillingDesk, *, loop: asyncio.AbstractEventLoop, cron: str) -> None:
        self._desk = desk
        self._loop = loop
        self._cron = cron
        self._workflows: list[tuple[str, Any, str]] = []

    def register(self) -> None:
        """Make the workflows known, before DBOS is launched."""
        self._workflows = [
            (SCHEDULE, self._workflow(WORKFLOW, self._bill), self._cron),
            (PAYMENTS_SCHEDULE, self._workflow(PAYMENTS_WORKFLOW, self._resolve), EVERY_MINUTE),
        ]

    def begin(self) -> None:
        """Put the schedules in force, after DBOS was launched; doing it again changes nothing."""
        DBOS.apply_schedules(
            [
                {"schedule_name": name, "workflow_fn": workflow, "schedule": cron}
                for name, workflow, cron in self._workflows
            ]
        )

    async def _bill(self) -> dict[str, int]:
        done = asdict(await self._desk.calendar.run())
        return done | {
            f"dunning_{name}": count
            for name, count in asdict(await self._desk.payments.dunning.run()).items()
        }

    async def _resolve(self) -> dict[str, int]:
        return asdict(await self._desk.payments.janitor.run())

    def _workflow(self, name: str, work: Callable[[], Awaitable[dict[str, int]]]) -> Any:
        async def awaited() -> dict[str, int]:
            return await work()

        def run() -> dict[str, int]:
            return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result()

        step = DBOS.step(
            name=f"{name}_once", retries_allowed=True, max_attempts=ATTEMPTS, interval_seconds=1.0
        )(run)

        def scheduled(_scheduled_at: datetime, _context: Any) -> None:
            _log.info(f"{name}_done", **step())

        return DBOS.workflow(name=name)(scheduled)


def open_schedule(
    config: PlatformConfig,
    *,
    database: Database,
    signer: NoteSigner,
    seller: Seller | None,
    clock: Clock,
    loop: asyncio.AbstractEventLoop,
    providers: Sequence[PaymentProvider],
    suspend: Suspend,
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
        providers=providers,
        dunning_end=DunningEnd(config.dunning_end),
        suspend=suspend,
    )
    return BillingSchedule(desk, loop=loop, cron=HOURLY)
