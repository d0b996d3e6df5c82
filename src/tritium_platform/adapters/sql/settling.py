"""The journal of a gateway over one database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.adapters.settlement_store import GroupSettlement, RoomStores
from tritium_platform.adapters.spooled_settlements import SpooledSettlements
from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.health_store import SqlOutcomeStore
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.spool_positions import SqlSpoolPositions

if TYPE_CHECKING:
    from pathlib import Path

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.settlement import SettlementStore
    from tritium_platform.values import Clock


async def open_journal(
    directory: Path, *, database: Database, clock: Clock, store: SettlementStore | None = None
) -> SpooledSettlements:
    """Return the journal whose spool lies in a directory, with what a crash left there in the books.

    `store` brings settlements into the books of this database; without one they are brought in from here.
    From now on whoever reads the books through this database waits for what is on its way into them.

    Raises:
        PlatformError: the spool is damaged.
    """
    journal = SpooledSettlements(
        directory, store=store or settlement_store(database, clock=clock), clock=clock
    )
    await journal.recover()
    database.settle_first = journal.drained
    return journal


def settlement_store(database: Database, *, clock: Clock) -> GroupSettlement:
    """Return what brings settlements into the books of a database."""
    stores = RoomStores(
        unit_of_work=database.unit_of_work,
        usage=SqlUsageStore(database),
        reservations=SqlReservationStore(database),
        intents=SqlAuditOutbox(database),
        outcomes=SqlOutcomeStore(database),
        positions=SqlSpoolPositions(database),
        clock=clock,
    )
    return GroupSettlement(stores)
