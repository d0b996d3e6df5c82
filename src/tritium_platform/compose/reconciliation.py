"""Wires the reconciliation over one database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.adapters.books_alarm import SecurityAlarm
from tritium_platform.adapters.sql.books_reader import SqlBooksReader
from tritium_platform.adapters.sql.reconciliation_store import SqlRunStore
from tritium_platform.billing.reconciliation.provider import ManualProvider
from tritium_platform.billing.reconciliation.service import ReconciliationService

if TYPE_CHECKING:
    from tritium_platform.adapters.books_alarm import Recorder
    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.billing.desk import BillingDesk


def open_reconciliation(
    database: Database, *, desk: BillingDesk, security: Recorder
) -> ReconciliationService:
    """Return what compares the books with themselves; payments are those of bank transfers."""
    reader = SqlBooksReader(database)
    return ReconciliationService(
        reader=reader,
        runs=SqlRunStore(database),
        books=desk.books,
        plans=desk.plans,
        provider=ManualProvider(reader),
        alarm=SecurityAlarm(security, clock=desk.books.clock),
    )
