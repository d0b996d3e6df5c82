"""What the worker does by the calendar.

Billing, dunning and the canary every hour, reconciliation and scores of health every day, the janitor of
payments every minute.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from tritium_platform.adapters.durable_schedule import DurableSchedule

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from tritium_platform.billing.desk import BillingDesk
    from tritium_platform.billing.reconciliation.service import ReconciliationService
    from tritium_platform.compliance.canary import Canary
    from tritium_platform.insight.scores import ScoreService

HOURLY = "17 * * * *"
HOURLY_CANARY = "7 * * * *"
DAILY = "41 3 * * *"
DAILY_HEALTH = "29 0 * * *"
EVERY_MINUTE = "* * * * *"


def open_schedules(
    desk: BillingDesk,
    *,
    reconciliation: ReconciliationService,
    scores: ScoreService,
    canary: Canary | None,
    loop: asyncio.AbstractEventLoop,
) -> Sequence[DurableSchedule]:
    """Open the schedules for the process that launches DBOS; `loop` is where their connections live."""

    async def bill() -> Mapping[str, int]:
        try:
            dunned = asdict(await desk.payments.dunning.run())
        except Exception:  # told when the calendar is done, which is not its fault
            await desk.calendar.run()
            raise
        return asdict(await desk.calendar.run()) | {f"dunning_{name}": each for name, each in dunned.items()}

    async def resolve() -> Mapping[str, int]:
        return asdict(await desk.payments.janitor.run())

    async def reconcile() -> Mapping[str, int]:
        run = await reconciliation.run()
        return {"differences": run.num_differences, **run.counted}

    async def score() -> Mapping[str, int]:
        return {"kept": await scores.keep_day()}

    async def sing() -> Mapping[str, int]:
        return {"differences": int(canary is not None and await canary.run() is not None)}

    return (
        DurableSchedule("billing calendar", workflow="bill_by_calendar", work=bill, loop=loop, cron=HOURLY),
        DurableSchedule("payments", workflow="resolve_payments", work=resolve, loop=loop, cron=EVERY_MINUTE),
        DurableSchedule("reconciliation", workflow="reconcile_books", work=reconcile, loop=loop, cron=DAILY),
        DurableSchedule("health", workflow="keep_health_scores", work=score, loop=loop, cron=DAILY_HEALTH),
        # Always known to DBOS: what it noted to be done while the canary was on must not be unknown later.
        DurableSchedule("canary", workflow="bill_canary", work=sing, loop=loop, cron=HOURLY_CANARY),
    )
