"""What makes a draft final: from then on the invoice is a document that never changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from tritium_platform.billing.document import invoice_to_dict, line_to_dict, sign_document
from tritium_platform.billing.drafting import total_of
from tritium_platform.billing.invoice import SERIES, CreditGrant, FiledLine, InvoiceKind, InvoiceStatus
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.audit.note import NoteSigner
    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.drafting import DraftLine
    from tritium_platform.billing.invoice import Invoice
    from tritium_platform.billing.plans import PlanService
    from tritium_platform.billing.projection import Projection
    from tritium_platform.billing.terms import Terms

WITHOUT_CONTRACT_DAYS = 14


class Finalization:
    """Writes in one transaction all that makes a draft final.

    That is the next number, the uses that are charged, canonical bytes, digest and signature, credit, journal
    and audit intent.
    """

    def __init__(
        self, *, books: BillingBooks, plans: PlanService, projection: Projection, signer: NoteSigner
    ) -> None:
        self._books = books
        self._plans = plans
        self._projection = projection
        self._signer = signer

    async def write(self, draft: Invoice, *, actor: str) -> Invoice:
        """Finalize a draft that nobody else changes, in the unit of work that is open."""
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
        draws = self._projection.draws(draft, lines=lines, grants=grants)
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
            parties=await self._projection.parties(invoice),
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
        total = total_of(lines)
        is_settled = total - drawn <= 0
        return replace(
            draft,
            status=InvoiceStatus.PAID if is_settled else InvoiceStatus.FINALIZED,
            finalized_at=now,
            due_at=now + timedelta(days=days),
            total_minor=total,
            drawn_minor=drawn,
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
