"""Drafts and their finalization: from a month's use to a document that never changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tritium_platform.billing.books import invoice_not_found
from tritium_platform.billing.document import (
    interval_of,
    invoice_to_dict,
    line_to_dict,
    read_body,
    sign_document,
)
from tritium_platform.billing.invoice import (
    SERIES,
    CreditGrant,
    FiledLine,
    Invoice,
    InvoiceKind,
    InvoiceStatus,
)
from tritium_platform.billing.line_events import LineEvent, events_of
from tritium_platform.billing.party import Parties
from tritium_platform.billing.projection import Projection
from tritium_platform.billing.rating.credits import Credit, draw_credits
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

WITHOUT_CONTRACT_DAYS = 14
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
        return sum(each.line.net + each.line.tax for each in self.lines)


class InvoiceService:
    """Makes drafts, shows invoices, and finalizes them.

    A draft is a projection: its lines are worked out whenever it is looked at. Finalizing does in one
    transaction: the next number, the uses that are charged, canonical bytes, digest and signature, credit,
    journal and audit intent.
    """

    def __init__(
        self, *, books: BillingBooks, plans: PlanService, signer: NoteSigner, seller: Seller | None = None
    ) -> None:
        self._books = books
        self._plans = plans
        self._signer = signer
        self._seller = seller
        self._projection = Projection(books=books, plans=plans)

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
        if invoice.status is InvoiceStatus.VOID:  # a draft that was discarded says nothing any more
            return invoice_to_dict(
                invoice,
                lines=[],
                tax=(await self._projection.terms_of(invoice)).tax,
                parties=await self._parties(invoice),
            )
        months = await self._projection.months_of(invoice)
        lines = await self._projection.lines(invoice, months=months, is_final=False)
        terms = await self._projection.terms_of(invoice)
        plain = [line_to_dict(number, line, events=None) for number, line in enumerate(lines, start=1)]
        grants = await self._books.credits.list(invoice.tenant_id)
        draws = self._draws(invoice, lines=lines, grants=grants)
        parties = await self._parties(invoice)
        return invoice_to_dict(invoice, lines=plain, tax=terms.tax, parties=parties, draws=draws)

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
            return await self._finalize(invoice, actor=actor)

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

    async def _finalize(self, draft: Invoice, *, actor: str) -> Invoice:
        # The number first: whoever finalizes waits here, so that no use is looked at by two at a time.
        sequence = await self._books.invoices.next_number(SERIES[InvoiceKind.INVOICE])
        number = f"{SERIES[InvoiceKind.INVOICE]}-{sequence:08d}"
        months = await self._projection.months_of(draft)
        for each in months.values():
            await self._plans.keep(each)
        await self._books.usage.bill(draft, list(months))
        lines = await self._projection.lines(draft, months=months, is_final=True)
        terms = await self._projection.terms_of(draft)
        grants = await self._books.credits.lock(draft.tenant_id, currency=draft.currency)
        draws = self._draws(draft, lines=lines, grants=grants)
        drawn = sum(each for _, each in draws)
        invoice = self._finalized(replace(draft, number=number), lines=lines, terms=terms, drawn=drawn)
        digests = await self._projection.digests(invoice, lines=lines, months=months)
        body = invoice_to_dict(
            invoice,
            lines=[
                line_to_dict(place, line, events=digest)
                for place, (line, digest) in enumerate(zip(lines, digests, strict=True), start=1)
            ],
            tax=terms.tax,
            parties=await self._parties(invoice),
            draws=draws,
        )
        document = sign_document(invoice, body=body, sequence=sequence, signer=self._signer)
        await self._books.invoices.save(invoice)
        await self._books.invoices.add_document(document)
        await self._books.invoices.add_lines(invoice, _filed(lines))
        await self._books.credits.draw(invoice, draws)
        await self._post(invoice, number=number, lines=lines)
        await self._books.note_invoice(
            "invoice.finalize", invoice, actor=actor, number=number, sha256=document.sha256.hex()
        )
        return invoice

    async def _post(self, invoice: Invoice, *, number: str, lines: Sequence[DraftLine]) -> None:
        tax = sum(each.line.tax for each in lines)
        surplus = max(0, -invoice.total_minor)
        await self._books.post(
            invoice,
            f"finalize:{invoice.id}",
            f"{number} for {invoice.period}",
            receivable=invoice.total_minor + surplus - invoice.drawn_minor,
            customer_credit=invoice.drawn_minor - surplus,
            revenue=tax - invoice.total_minor,
            tax_payable=-tax,
        )
        if surplus:  # a month that costs less than was charged: the difference is the customer's
            await self._books.credits.add(
                CreditGrant(
                    id=uuid7(self._books.clock),
                    tenant_id=invoice.tenant_id,
                    currency=invoice.currency,
                    amount_minor=surplus,
                    remaining_minor=surplus,
                    reason=f"surplus of {number}",
                    created_at=self._books.clock.now(),
                )
            )

    def _finalized(self, draft: Invoice, *, lines: Sequence[DraftLine], terms: Terms, drawn: int) -> Invoice:
        now = self._books.clock.now()
        days = terms.contract.payment_days if terms.contract else WITHOUT_CONTRACT_DAYS
        total = sum(each.line.net + each.line.tax for each in lines)
        is_settled = total - drawn <= 0
        return replace(
            draft,
            status=InvoiceStatus.PAID if is_settled else InvoiceStatus.FINALIZED,
            finalized_at=now,
            due_at=now + timedelta(days=days),
            total_minor=total,
            drawn_minor=drawn,
        )

    async def _parties(self, invoice: Invoice) -> Parties:
        return Parties(seller=self._seller, buyer=await self._plans.buyer(invoice.tenant_id))

    def _draws(
        self, invoice: Invoice, *, lines: Sequence[DraftLine], grants: Sequence[CreditGrant]
    ) -> Sequence[tuple[UUID, int]]:
        total = sum(each.line.net + each.line.tax for each in lines)
        usable = [
            Credit(
                id=grant.id,
                remaining=grant.remaining_minor,
                priority=grant.priority,
                expires_at=grant.expires_at,
            )
            for grant in grants
            if grant.currency == invoice.currency
        ]
        return draw_credits(max(0, total), grants=usable, at=self._books.clock.now())

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


def _filed(lines: Sequence[DraftLine]) -> list[FiledLine]:
    return [
        FiledLine(
            number=number,
            period=each.month,
            charge=each.line.charge,
            cell=each.line.cell,
            plan_id=each.plan_id,
            quantity=each.line.quantity,
            net_minor=each.line.net,
            tax_minor=each.line.tax,
            interval=each.interval,
        )
        for number, each in enumerate(lines, start=1)
    ]
