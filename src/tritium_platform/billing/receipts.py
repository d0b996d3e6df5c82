"""Where money goes that comes in for an invoice, and where money comes from that goes back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from tritium_platform.billing.invoice import CreditGrant, Invoice, InvoiceStatus, Payment
from tritium_platform.billing.settlement import settled
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.payment import PaymentAttempt


def payment_reason(attempt_id: UUID) -> str:
    """Return the reason of the credit that an attempt brought beyond what was open."""
    return f"payment {attempt_id}"


async def take_in(
    books: BillingBooks, invoice: Invoice, *, amount_minor: int, attempt: PaymentAttempt
) -> Counter[str]:
    """Settle an invoice with money of an attempt, and return what that moves in accounts other than cash.

    What is more than is open becomes prepaid credit; what was written off is written off no more.
    """
    if invoice.status is InvoiceStatus.UNCOLLECTIBLE:
        return Counter(write_off=-amount_minor)
    applied = min(amount_minor, invoice.open_minor)
    now = books.clock.now()
    if applied:
        await books.invoices.add_payment(
            Payment(
                id=uuid7(books.clock),
                invoice_id=invoice.id,
                tenant_id=invoice.tenant_id,
                amount_minor=applied,
                reference=attempt.reference or str(attempt.id),
                received_at=now,
            )
        )
        await books.invoices.save(settled(replace(invoice, paid_minor=invoice.paid_minor + applied)))
    excess = amount_minor - applied
    await add_credit(books, invoice, amount_minor=excess, reason=payment_reason(attempt.id))
    return Counter(receivable=-applied, customer_credit=-excess)


async def take_credit(books: BillingBooks, invoice: Invoice, *, amount_minor: int, reason: str) -> int:
    """Take up to an amount from the credit that was granted for a reason; return how much was there."""
    left = amount_minor
    for grant in await books.credits.lock(invoice.tenant_id, currency=invoice.currency):
        if grant.reason == reason and left:
            part = min(left, grant.remaining_minor)
            await books.credits.take(grant.id, part)
            left -= part
    return amount_minor - left


async def add_credit(books: BillingBooks, invoice: Invoice, *, amount_minor: int, reason: str) -> None:
    """Grant credit of an amount, if it is any."""
    if amount_minor:
        await books.credits.add(
            CreditGrant(
                id=uuid7(books.clock),
                tenant_id=invoice.tenant_id,
                currency=invoice.currency,
                amount_minor=amount_minor,
                remaining_minor=amount_minor,
                reason=reason,
                created_at=books.clock.now(),
            )
        )


def reopened(invoice: Invoice, *, amount_minor: int) -> Invoice:
    """Return an invoice of which less is paid; the calendar marks it overdue if it is."""
    paid = invoice.paid_minor - amount_minor
    status = InvoiceStatus.PARTIALLY_PAID if paid else InvoiceStatus.FINALIZED
    if invoice.status is InvoiceStatus.OVERDUE:
        status = InvoiceStatus.OVERDUE
    return replace(invoice, paid_minor=paid, status=status)
