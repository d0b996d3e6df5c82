"""The services of money over one SQL database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.billed_usage_store import SqlBilledUsageStore
from tritium_platform.adapters.sql.credit_store import SqlCreditStore
from tritium_platform.adapters.sql.invoice_store import SqlInvoiceStore
from tritium_platform.adapters.sql.journal_store import SqlJournalStore
from tritium_platform.adapters.sql.notice_store import SqlNoticeStore
from tritium_platform.adapters.sql.payment_store import SqlPaymentStore
from tritium_platform.adapters.sql.plan_store import SqlOperationStore, SqlPlanStore
from tritium_platform.billing.books import BillingBooks
from tritium_platform.billing.desk import open_desk, open_payments
from tritium_platform.billing.dunning import DunningEnd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.adapters.sql.database import Database
    from tritium_platform.audit.note import NoteSigner
    from tritium_platform.billing.calendar import Tenants
    from tritium_platform.billing.desk import BillingDesk
    from tritium_platform.billing.dunning import Suspend
    from tritium_platform.billing.party import Seller
    from tritium_platform.billing.payments import PaymentProvider
    from tritium_platform.billing.plans import PriceLists
    from tritium_platform.values import Clock


def open_sql_desk(
    database: Database,
    *,
    prices: PriceLists,
    tenants: Tenants,
    signer: NoteSigner,
    clock: Clock,
    grace_days: int | None,
    seller: Seller | None = None,
    providers: Sequence[PaymentProvider] = (),
    dunning_end: DunningEnd = DunningEnd.NOTHING,
    suspend: Suspend | None = None,
) -> BillingDesk:
    """Open the services of money over a database; see `open_desk` and `open_payments`."""
    books = BillingBooks(
        unit_of_work=database.unit_of_work,
        invoices=SqlInvoiceStore(database),
        usage=SqlBilledUsageStore(database),
        journal=SqlJournalStore(database),
        credits=SqlCreditStore(database),
        operations=SqlOperationStore(database),
        payments=SqlPaymentStore(database),
        outbox=SqlAuditOutbox(database),
        clock=clock,
    )
    return open_desk(
        books,
        plan_store=SqlPlanStore(database),
        prices=prices,
        tenants=tenants,
        signer=signer,
        grace_days=grace_days,
        seller=seller,
        payments=open_payments(
            books,
            events=SqlNoticeStore(database),
            providers=providers,
            dunning_end=dunning_end,
            suspend=suspend,
        ),
    )
