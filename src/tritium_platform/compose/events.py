"""Wires what takes in uses that others counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.adapters.capped_ingestion import CappedIngestion
from tritium_platform.adapters.event_replay import EventReplay
from tritium_platform.adapters.ingestion_trail import AuditedIngestion
from tritium_platform.adapters.neighbours import events_in
from tritium_platform.adapters.spooled_events import SpooledEvents
from tritium_platform.adapters.sql.event_store import SqlEventStore
from tritium_platform.adapters.sql.spool_positions import SqlSpoolPositions
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.metering.event_writer import EventWriter
from tritium_platform.metering.ingestion import Ingestion
from tritium_platform.tenancy.confirmation import Confirmation

if TYPE_CHECKING:
    from pathlib import Path

    from tritium_platform.adapters.metrics import Metrics
    from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.billing.invoicing import BillingService
    from tritium_platform.config import PlatformConfig
    from tritium_platform.quotas.spending import SpendService
    from tritium_platform.values import Clock


def open_event_writer(
    database: Database,
    *,
    outbox: SqlAuditOutbox,
    spending: SpendService,
    prices: BillingService,
    clock: Clock,
) -> EventWriter:
    """Return what writes events into the books."""
    return EventWriter(
        store=SqlEventStore(database),
        trail=AuditedIngestion(intents=outbox, clock=clock),
        unit_of_work=database.unit_of_work,
        clock=clock,
        caps=CappedIngestion(spending=spending, prices=prices, clock=clock),
    )


def open_event_replay(
    database: Database,
    *,
    writer: EventWriter,
    outbox: SqlAuditOutbox,
    spending: SpendService,
    metrics: Metrics,
    clock: Clock,
) -> EventReplay:
    """Return what brings events out of a spool into the books."""
    return EventReplay(
        writer=writer,
        trail=AuditedIngestion(intents=outbox, clock=clock),
        positions=SqlSpoolPositions(database),
        unit_of_work=database.unit_of_work,
        caps=spending,
        senders=Confirmation(SqlTenantStore(database)),
        telemetry=metrics,
    )


async def open_ingestion(
    config: PlatformConfig,
    *,
    writer: EventWriter,
    replay: EventReplay,
    spool: Path | None,
    metrics: Metrics,
    clock: Clock,
) -> Ingestion:
    """Return what takes in uses that others counted; `spool` is where a server keeps its journal.

    What an earlier process left there is brought in from now on.

    Raises:
        PlatformError: it is damaged.
    """
    if spool is None:
        return Ingestion(writer=writer, clock=clock)
    events = SpooledEvents(
        events_in(spool), store=replay, clock=clock, telemetry=metrics, most_bytes=config.event_spool_bytes
    )
    await events.open()
    return Ingestion(writer=writer, clock=clock, spool=events)
