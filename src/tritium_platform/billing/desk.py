"""The services of money, opened over one set of books."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium_platform.billing.calendar import BillingCalendar
from tritium_platform.billing.credit_notes import CreditNoteService
from tritium_platform.billing.disputes import DisputeService
from tritium_platform.billing.dunning import DunningEnd, DunningService
from tritium_platform.billing.grants import GrantService
from tritium_platform.billing.inbox import PaymentInbox
from tritium_platform.billing.invoices import InvoiceService
from tritium_platform.billing.janitor import PaymentJanitor
from tritium_platform.billing.manual import ManualProvider
from tritium_platform.billing.payments import PaymentService
from tritium_platform.billing.plans import PlanService
from tritium_platform.billing.refunds import RefundService
from tritium_platform.billing.settlement import SettlementService

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.audit.note import NoteSigner
    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.calendar import Tenants
    from tritium_platform.billing.dunning import Suspend
    from tritium_platform.billing.journal import JournalGroup
    from tritium_platform.billing.party import Seller
    from tritium_platform.billing.payment_store import NoticeStore
    from tritium_platform.billing.payments import PaymentProvider
    from tritium_platform.billing.plans import PlanStore, PriceLists

PAGE = 1000


@dataclass(frozen=True, kw_only=True)
class PaymentDesk:
    """Everything that can be done about payments."""

    service: PaymentService
    refunds: RefundService
    disputes: DisputeService
    inbox: PaymentInbox
    janitor: PaymentJanitor
    dunning: DunningService


@dataclass(frozen=True, kw_only=True)
class BillingDesk:
    """Everything that can be done about money."""

    books: BillingBooks
    plans: PlanService
    invoices: InvoiceService
    settlement: SettlementService
    credit_notes: CreditNoteService
    grants: GrantService
    calendar: BillingCalendar
    payments: PaymentDesk

    async def whole_journal(self) -> Sequence[JournalGroup]:
        """Return every group of the journal, oldest first."""
        groups: list[JournalGroup] = []
        while True:
            page = await self.books.journal.list(limit=PAGE, after=groups[-1].id if groups else None)
            groups += page
            if len(page) < PAGE:
                return groups


def open_desk(
    books: BillingBooks,
    *,
    plan_store: PlanStore,
    prices: PriceLists,
    tenants: Tenants,
    signer: NoteSigner,
    grace_days: int | None,
    seller: Seller | None = None,
    payments: PaymentDesk,
) -> BillingDesk:
    """Open the services over some books.

    Args:
        books: what every change is written into.
        plan_store: where plans and contracts are kept.
        prices: what prices those who have no contract.
        tenants: who is billed by the calendar.
        signer: signs what is finalized.
        grace_days: see `BillingCalendar`.
        seller: who issues the invoices; None: they name nobody.
        payments: the services of payments over the same books.
    """
    plans = PlanService(store=plan_store, prices=prices, books=books)
    invoices = InvoiceService(books=books, plans=plans, signer=signer, seller=seller)
    settlement = SettlementService(books=books)
    grants = GrantService(books=books)
    return BillingDesk(
        books=books,
        plans=plans,
        invoices=invoices,
        settlement=settlement,
        credit_notes=CreditNoteService(books=books, signer=signer),
        grants=grants,
        calendar=BillingCalendar(
            invoices=invoices,
            settlement=settlement,
            grants=grants,
            tenants=tenants,
            clock=books.clock,
            grace_days=grace_days,
        ),
        payments=payments,
    )


def open_payments(
    books: BillingBooks,
    *,
    events: NoticeStore,
    providers: Sequence[PaymentProvider] = (),
    dunning_end: DunningEnd = DunningEnd.NOTHING,
    suspend: Suspend | None = None,
) -> PaymentDesk:
    """Open the services of payments over some books.

    Args:
        books: what every change is written into.
        events: the inbox.
        providers: beside bank transfers, which are always there.
        dunning_end: see `DunningService`.
        suspend: see `DunningService`.
    """
    by_name = {each.name: each for each in (ManualProvider(), *providers)}
    service = PaymentService(books=books, providers=by_name)
    refunds = RefundService(books=books, payments=service)
    disputes = DisputeService(books=books)
    inbox = PaymentInbox(
        events=events,
        store=books.payments,
        payments=service,
        refunds=refunds,
        disputes=disputes,
        providers=by_name,
        clock=books.clock,
    )
    return PaymentDesk(
        service=service,
        refunds=refunds,
        disputes=disputes,
        inbox=inbox,
        janitor=PaymentJanitor(books=books, payments=service, refunds=refunds, inbox=inbox),
        dunning=DunningService(
            books=books,
            payments=service,
            settlement=SettlementService(books=books),
            end=dunning_end,
            suspend=suspend,
        ),
    )
