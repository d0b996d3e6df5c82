"""What happens to an invoice once it is finalized: payments, and the ways in which it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tritium_platform.billing.invoice import (
    OPEN,
    Invoice,
    InvoiceKind,
    InvoiceStatus,
    Payment,
)
from tritium_platform.billing.payment import UNRESOLVED
from tritium_platform.errors import ConflictError, ValidationError
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.billing.books import BillingBooks

LONGEST_TEXT = 200
AT_ONCE = 100


class SettlementService:
    """Records payments, voids and writes off; each with its journal group and audit entry.

    A `key` names an operation for ever: a second call changes nothing and returns what the first one made.
    """

    def __init__(self, *, books: BillingBooks) -> None:
        self._books = books

    async def record_payment(
        self, invoice_id: UUID, *, amount_minor: int, reference: str, key: str | None, actor: str
    ) -> Invoice:
        """Record money that came in for an invoice.

        Raises:
            NotFoundError: there is no such invoice.
            ValidationError: the amount is not above zero, or is more than is open.
            ConflictError: the invoice is not open.
        """
        require_text(reference, field="reference")
        if type(amount_minor) is not int or amount_minor <= 0:
            raise ValidationError("A payment is a whole number of minor units above 0.", field="amount_minor")
        payment_id = uuid7(self._books.clock)
        request = ("payment", str(invoice_id), str(amount_minor), reference)
        async with self._books.unit_of_work():
            if await self._books.begin(key, request=request, subject_id=payment_id) is not None:
                return await self._books.locked(invoice_id)
            invoice = await self._open(invoice_id)
            if amount_minor > invoice.open_minor:
                raise ValidationError(
                    f"{invoice.money(invoice.open_minor)} are open: what is more is granted as credit.",
                    field="amount_minor",
                )
            await self._books.invoices.add_payment(
                Payment(
                    id=payment_id,
                    invoice_id=invoice.id,
                    tenant_id=invoice.tenant_id,
                    amount_minor=amount_minor,
                    reference=reference,
                    received_at=self._books.clock.now(),
                )
            )
            paid = settled(replace(invoice, paid_minor=invoice.paid_minor + amount_minor))
            await self._books.invoices.save(paid)
            await self._books.post(
                invoice,
                f"payment:{payment_id}",
                f"payment {reference}",
                cash_clearing=amount_minor,
                receivable=-amount_minor,
            )
            await self._books.note_invoice(
                "invoice.pay",
                paid,
                actor=actor,
                payment_id=str(payment_id),
                amount_minor=str(amount_minor),
            )
            return paid

    async def void(self, invoice_id: UUID, *, actor: str) -> Invoice:
        """Void an invoice: its uses are billed again with the next draft; a draft is discarded.

        Raises:
            NotFoundError: there is no such invoice.
            ConflictError: something of it is paid or credited, or it is closed in another way.
        """
        async with self._books.unit_of_work():
            invoice = await self._books.locked(invoice_id)
            if invoice.status is InvoiceStatus.VOID:
                return invoice
            await self._require_no_attempt(invoice)
            is_draft = invoice.status is InvoiceStatus.DRAFT
            is_touched = invoice.paid_minor or invoice.credited_minor
            is_paid_by_money = invoice.status is InvoiceStatus.PAID and not self._is_paid_by_credit(invoice)
            if invoice.kind is not InvoiceKind.INVOICE or is_touched or is_paid_by_money:
                raise ConflictError(
                    "Only an invoice of which nothing is paid or credited can be void: write a credit note.",
                    field="invoice_id",
                )
            if invoice.status is InvoiceStatus.UNCOLLECTIBLE:
                raise ConflictError("This invoice is written off already.", field="invoice_id")
            void = replace(invoice, status=InvoiceStatus.VOID)
            if not is_draft:
                void = await self._take_back(void)
            await self._books.invoices.save(void)
            await self._books.note_invoice("invoice.void", void, actor=actor)
            return void

    async def write_off(self, invoice_id: UUID, *, actor: str) -> Invoice:
        """Give up what is open of an invoice; ConflictError if nothing is."""
        async with self._books.unit_of_work():
            invoice = await self._books.locked(invoice_id)
            if invoice.status is InvoiceStatus.UNCOLLECTIBLE:
                return invoice
            invoice = await self._open(invoice_id)
            await self._require_no_attempt(invoice)
            lost = replace(invoice, status=InvoiceStatus.UNCOLLECTIBLE)
            await self._books.invoices.save(lost)
            await self._books.post(
                invoice,
                f"write_off:{invoice.id}",
                "written off",
                write_off=invoice.open_minor,
                receivable=-invoice.open_minor,
            )
            await self._books.note_invoice("invoice.write_off", lost, actor=actor)
            return lost

    async def mark_overdue(self) -> int:
        """Mark what was due and is open; return how many."""
        count = 0
        while True:
            due = await self._books.invoices.due_before(self._books.clock.now(), limit=AT_ONCE)
            for each in due:
                async with self._books.unit_of_work():
                    invoice = await self._books.locked(each.id)
                    if invoice.status not in OPEN or invoice.status is InvoiceStatus.OVERDUE:
                        continue
                    late = replace(invoice, status=InvoiceStatus.OVERDUE)
                    await self._books.invoices.save(late)
                    await self._books.note_invoice("invoice.overdue", late, actor="calendar")
                    count += 1
            if len(due) < AT_ONCE:
                return count

    async def _take_back(self, invoice: Invoice) -> Invoice:
        """Undo what finalizing moved: credit, uses, journal."""
        document = await self._books.said(invoice)
        for grant_id, amount in await self._books.credits.draws(invoice.id):
            await self._books.credits.give_back(grant_id, amount)
        await self._books.usage.release(invoice.id)
        tax, drawn, total = document["tax_minor"], invoice.drawn_minor, invoice.total_minor
        await self._books.post(
            invoice,
            f"void:{invoice.id}",
            f"void of {document['number']}",
            receivable=drawn - total,
            customer_credit=-drawn,
            revenue=total - tax,
            tax_payable=tax,
        )
        return invoice

    async def _require_no_attempt(self, invoice: Invoice) -> None:
        """Refuse to close what somebody may be paying at this moment."""
        attempts = await self._books.payments.of_invoice(invoice.id)
        if any(each.state in UNRESOLVED for each in attempts):
            raise ConflictError(
                "A payment of this invoice is not resolved yet: wait for it, or cancel it.",
                field="invoice_id",
            )

    async def _open(self, invoice_id: UUID) -> Invoice:
        invoice = await self._books.locked(invoice_id)
        if invoice.status not in OPEN or invoice.kind is not InvoiceKind.INVOICE:
            raise ConflictError(f"The invoice is not open: it is {invoice.status.value}.", field="invoice_id")
        return invoice

    @staticmethod
    def _is_paid_by_credit(invoice: Invoice) -> bool:
        """Return whether nothing but prepaid credit settled it, which is given back when it is void."""
        return invoice.total_minor == invoice.drawn_minor >= 0


def settled(invoice: Invoice) -> Invoice:
    """Return an invoice with the status that its open amount gives it."""
    if invoice.open_minor == 0:
        return replace(invoice, status=InvoiceStatus.PAID)
    if invoice.status is InvoiceStatus.OVERDUE or not invoice.paid_minor:
        return invoice
    return replace(invoice, status=InvoiceStatus.PARTIALLY_PAID)


def require_text(text: str, *, field: str) -> None:
    """Refuse what cannot be printed on one line; ValidationError."""
    if not 0 < len(text) <= LONGEST_TEXT or not text.isprintable():
        raise ValidationError(
            f"The {field} has 1 to {LONGEST_TEXT} characters that can be printed.", field=field
        )
