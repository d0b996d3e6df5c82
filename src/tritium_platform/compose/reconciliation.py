"""Wires the reconciliation over one database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.adapters.books_alarm import SecurityAlarm
from tritium_platform.adapters.sql.books_reader import SqlBooksReader
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.reconciliation_store import SqlRunStore
from tritium_platform.billing.reconciliation.provider import ManualProvider
from tritium_platform.billing.reconciliation.service import ReconciliationService
from tritium_platform.billing.reconciliation.statements import StatementComparison
from tritium_platform.compliance.canary import Canary
from tritium_platform.metering.service import MeteringService

if TYPE_CHECKING:
    from tritium_platform.adapters.books_alarm import Recorder
    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.billing.desk import BillingDesk
    from tritium_platform.quotas.service import QuotaService


def open_reconciliation(
    database: Database, *, desk: BillingDesk, security: Recorder
) -> ReconciliationService:
    """Return what compares the books with themselves; payments with what their providers list."""
    reader = SqlBooksReader(database)
    return ReconciliationService(
        reader=reader,
        runs=SqlRunStore(database),
        books=desk.books,
        plans=desk.plans,
        provider=ManualProvider(reader),
        alarm=SecurityAlarm(security, clock=desk.books.clock),
        statements=StatementComparison(books=desk.books, providers=desk.payments.service.providers),
    )


def open_canary(database: Database, *, desk: BillingDesk, quotas: QuotaService, security: Recorder) -> Canary:
    """Return the synthetic customer that is billed every hour."""
    return Canary(
        desk=desk,
        quotas=quotas,
        metering=MeteringService(store=SqlUsageStore(database)),
        unit_of_work=database.unit_of_work,
        clock=desk.books.clock,
        alarm=SecurityAlarm(security, clock=desk.books.clock),
    )
