"""Invoices from their drafts on: makes them, shows them, and has them finalized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritium_platform.billing.books import invoice_not_found
from tritium_platform.billing.document import interval_of, read_body
from tritium_platform.billing.drafting import total_of
from tritium_platform.billing.finalization import Finalization
from tritium_platform.billing.invoice import Invoice, InvoiceKind, InvoiceStatus
from tritium_platform.billing.line_events import LineEvent, events_of
from tritium_platform.billing.projection import Projection
from tritium_platform.errors import ConflictError, NotFoundError
from tritium_platform.values import CalendarMonth, uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from uuid import UUID

    from tritium_platform.audit.note import NoteSigner
    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.contract import Contract
    from tritium_platform.billing.drafting import DraftLine
    from tritium_platform.billing.party import Seller
    from tritium_platform.billing.plans import PlanService
    from tritium_platform.billing.rating.plan import Plan
    from tritium_platform.billing.terms import Terms

MOST_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A draft that is not kept: its head, the plans of its lines by their ids, its lines with their taxes."""

    invoice: Invoice
    plans: Mapping[str, Plan]
    lines: Sequence[DraftLine]

    @property
    def total_minor(self) -> int:
        """What it comes to with tax, in minor units."""
        return total_of(self.lines)


class InvoiceService:
    """Makes drafts, shows invoices, and finalizes them.

    A draft is a projection: its lines are worked out whenever it is looked at.
    """

    def __init__(
        self, *, books: BillingBooks, plans: PlanService, signer: NoteSigner, seller: Seller | None = None
    ) -> None:
        self._books = books
        self._plans = plans
        self._projection = Projection(books=books, plans=plans, seller=seller)
        self._finalization = Finalization(
            books=books, plans=plans, projection=self._projection, signer=signer
        )

    async def generate(self, tenant_id: UUID, *, period: CalendarMonth, actor: str) -> Sequence[Invoice]:
        """Make the drafts of a month, one per currency; doing it again finds the same ones.

        Nothing is made for a currency in which there is nothing to charge for.
        """
        made = []
        async with self._books.unit_of_work():
            await self._plans.hold(tenant_id)  # a contract comes in before the draft, or is refused for it
            for terms, months in (await self._projection.by_currency(tenant_id, period=period)).values():
                await self._plans.keep(terms)
                draft = self._draft(tenant_id, period=period, terms=terms)
                if not await self._projection.lines(draft, months=months, is_final=False):
                    continue
                if await self._books.invoices.add(draft):
                    await self._books.note_invoice("invoice.generate", draft, actor=actor)
                    made.append(draft)
        return made

    async def generate_until(self, tenant_id: UUID, *, last: CalendarMonth, actor: str) -> int:
        """Make the drafts of every month that is not billed, up to the last one; return how many were made.

        What came late to a month that is billed is no draft of that month: the next draft adjusts it.
        """
        count, month = 0, await self._first_open_month(tenant_id, last=last)
        known: Sequence[Contract] | None = None
        while month <= last:
            async with self._books.unit_of_work():
                await self._plans.hold(tenant_id)
                contracts = await self._plans.contracts(tenant_id)
                if contracts != known:  # one may be dated back into a month of which no draft was made
                    known, month = contracts, await self._first_open_month(tenant_id, last=last)
                if month <= last:
                    count += len(await self.generate(tenant_id, period=month, actor=actor))
            month = month.next()
        return count

    async def _first_open_month(self, tenant_id: UUID, *, last: CalendarMonth) -> CalendarMonth:
        """Return the month behind the last that is billed, or the first with a use or a contract."""
        billed = await self._books.invoices.last_period(tenant_id)
        if billed is not None:
            return billed.next()
        agreed = [CalendarMonth.of(each.starts_at) for each in await self._plans.contracts(tenant_id)]
        used = await self._books.usage.unbilled_months(tenant_id, before=last.end)
        return min([*used, *agreed, last])

    async def preview(self, tenant_id: UUID, *, period: CalendarMonth) -> Preview:
        """Return what a month's invoice would say now, in the currency of the month; nothing is kept."""
        found = await self._projection.by_currency(tenant_id, period=period)
        months = next(months for _, months in found.values() if period in months)
        draft = self._draft(tenant_id, period=period, terms=months[period])
        lines = await self._projection.lines(draft, months=months, is_final=False)
        plans = {part.plan_id: part.plan for terms in months.values() for part in terms.parts}
        return Preview(invoice=draft, plans=plans, lines=lines)

    async def get(self, invoice_id: UUID, *, tenant_id: UUID | None = None) -> Invoice:
        """Return an invoice, of one tenant if that is given; NotFoundError if there is none."""
        invoice = await self._books.invoices.get(invoice_id)
        if invoice is None or tenant_id not in (None, invoice.tenant_id):
            raise invoice_not_found()
        return invoice

    async def list(
        self,
        *,
        tenant_id: UUID | None = None,
        statuses: Sequence[InvoiceStatus] = (),
        limit: int = 50,
        after: UUID | None = None,
    ) -> Sequence[Invoice]:
        """Return a page of invoices, newest first."""
        return await self._books.invoices.list(
            tenant_id=tenant_id, statuses=statuses, limit=limit, after=after
        )

    async def documents(
        self, *, tenant_id: UUID | None, period: CalendarMonth
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield what each invoice about a month and each credit note to one says; void ones say nothing."""
        after = None
        while True:
            page = await self.list(tenant_id=tenant_id, limit=MOST_AT_ONCE, after=after)
            for invoice in page:
                if invoice.period == period and invoice.number and invoice.status is not InvoiceStatus.VOID:
                    yield await self._books.said(invoice)
            if len(page) < MOST_AT_ONCE:
                return
            after = page[-1].id

    async def body(self, invoice: Invoice) -> dict[str, Any]:
        """Return what an invoice says: of a draft what it would say now, else its document."""
        document = await self._books.invoices.document(invoice.id)
        if document is not None:
            return read_body(document.body)
        return await self._projection.body(invoice)

    async def finalize(self, invoice_id: UUID, *, actor: str) -> Invoice:
        """Finalize a draft; one that is finalized already is returned as it is.

        Raises:
            NotFoundError: there is no such invoice.
            ConflictError: the month is not over, or the draft was discarded.
            ValidationError: the plan lacks a tax rate.
        """
        async with self._books.unit_of_work():
            invoice = await self._books.locked(invoice_id)
            if invoice.status is not InvoiceStatus.DRAFT:
                if invoice.status is InvoiceStatus.VOID:
                    raise ConflictError("A void invoice is not finalized any more.", field="invoice_id")
                return invoice
            if self._books.clock.now() < invoice.period.end:
                raise ConflictError(f"{invoice.period} is not over yet.", field="invoice_id")
            return await self._finalization.write(invoice, actor=actor)

    async def line_events(
        self, invoice: Invoice, *, number: int, limit: int, after: UUID | None = None
    ) -> tuple[Sequence[LineEvent], UUID | None]:
        """Return a page of the uses behind a line of a finalized invoice or credit note, and where to go on.

        Raises:
            NotFoundError: there is no such line, or the invoice is a draft.
        """
        body = await self._books.said(invoice) if invoice.number else {"lines": ()}
        line = next((each for each in body["lines"] if each["number"] == number), None)
        if line is None:
            raise NotFoundError("There is no such line in a finalized invoice.")
        if invoice.credits_invoice_id is not None:  # what it takes off was charged by the invoice it corrects
            credited = await self.get(invoice.credits_invoice_id)
            return await self.line_events(credited, number=line["credits_line"], limit=limit, after=after)
        plan = await self._plans.get(line["plan_id"])
        records = await self._books.usage.events(
            invoice.id, interval=interval_of(line), limit=limit, after=after
        )
        events = events_of(records, plan=plan, key=(line["charge"], tuple(line["cell"])))
        return events, records[-1].id if len(records) == limit else None

    def _draft(self, tenant_id: UUID, *, period: CalendarMonth, terms: Terms) -> Invoice:
        return Invoice(
            id=uuid7(self._books.clock),
            tenant_id=tenant_id,
            kind=InvoiceKind.INVOICE,
            status=InvoiceStatus.DRAFT,
            period=period,
            currency=terms.plan.currency,
            plan_id=terms.plan_id,
            contract_id=terms.contract.id if terms.contract else None,
            created_at=self._books.clock.now(),
        )
