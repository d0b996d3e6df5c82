"""Giving money back: like a payment, written down before the provider is asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from tritium_platform.billing.credit_notes import credit_reason
from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.billing.payment import (
    AttemptState,
    PaymentAttempt,
    PaymentRefund,
    RefundOutcome,
    RefundState,
    idempotency_key,
)
from tritium_platform.billing.receipts import add_credit, payment_reason, reopened, take_credit, take_in
from tritium_platform.billing.settlement import require_text
from tritium_platform.errors import BitNetServiceError, ConflictError, NotFoundError, ValidationError
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.invoice import Invoice
    from tritium_platform.billing.payments import PaymentService

_log = structlog.get_logger(__name__)
ON_ITS_WAY = frozenset({RefundState.CREATED, RefundState.UNKNOWN})
WITH_US, HELD, GONE = 0, 1, 2


class RefundService:
    """Refunds attempts that were paid, whole or in part.

    What goes back comes out of credit first: a credit note's, or what the payment brought beyond the invoice.
    That is owed (`refund_payable`) until the provider says that it is gone. The rest comes out of the
    invoice, which is open again by that much, but not before the money is gone: else it might be paid twice.
    """

    def __init__(self, *, books: BillingBooks, payments: PaymentService) -> None:
        self._books = books
        self._payments = payments

    async def refund(
        self,
        attempt_id: UUID,
        *,
        reason: str,
        key: str | None,
        actor: str,
        amount_minor: int | None = None,
        credit_note_id: UUID | None = None,
    ) -> PaymentRefund:
        """Give back what an attempt brought, by default all of it; a second call under a key changes nothing.

        Raises:
            NotFoundError: there is no such attempt, or no such credit note of its invoice.
            ValidationError: it is more than is left of the attempt, or of the credit note's credit.
            ConflictError: the attempt is not paid, or its invoice was written off.
        """
        require_text(reason, field="reason")
        refund_id = uuid7(self._books.clock)
        request = ("refund", str(attempt_id), str(amount_minor), str(credit_note_id), reason)
        invoice_id = (await self._payments.get(attempt_id)).invoice_id
        async with self._books.unit_of_work():
            earlier = await self._books.begin(key, request=request, subject_id=refund_id)
            if earlier is not None:
                return await self._get(attempt_id, earlier)
            invoice = await self._books.locked(invoice_id)
            attempt = await self._payments.locked(attempt_id)
            await self._require_refundable(invoice, attempt, credit_note_id=credit_note_id)
            left = attempt.received_minor - attempt.refunded_minor
            amount = left if amount_minor is None else amount_minor
            if type(amount) is not int or not 0 < amount <= left:
                raise ValidationError(
                    f"{invoice.money(left)} are left of this payment: refund up to that.",
                    field="amount_minor",
                )
            refund = await self._new(
                attempt,
                refund_id=refund_id,
                amount_minor=amount,
                reason=reason,
                credit_note_id=credit_note_id,
            )
            refund = await self._write(None, refund, invoice=invoice, attempt=attempt)
            left = refund.from_credit_minor + (0 if credit_note_id else invoice.paid_minor)
            if amount > left:
                raise ValidationError(
                    f"{invoice.money(left)} are left to refund there.", field="amount_minor"
                )
            await self._note("refund.create", refund, actor=actor)
        try:
            outcome = await self._payments.provider(attempt.provider).refund(attempt, refund)
        except BitNetServiceError as error:
            _log.warning("refund_unknown", refund_id=str(refund.id), code=error.code)
            return await self.settle(refund, state=RefundState.UNKNOWN)
        return await self.settle(refund, state=outcome.state, reference=outcome.reference or None)

    async def settle(
        self, refund: PaymentRefund, *, state: RefundState, reference: str | None = None
    ) -> PaymentRefund:
        """Write down what became of a refund; what is written already changes nothing."""
        async with self._books.unit_of_work():
            invoice = await self._books.locked(refund.invoice_id)
            attempt = await self._payments.locked(refund.attempt_id)
            before = await self._get(refund.attempt_id, refund.id)
            is_known = before.state not in ON_ITS_WAY and state in ON_ITS_WAY
            after = replace(
                before,
                state=before.state if is_known else state,
                reference=before.reference or reference,
            )
            if after == before:
                return before
            after = replace(after, changed_at=self._books.clock.now())
            await self._write(before, after, invoice=invoice, attempt=attempt)
            await self._note(f"refund.{after.state.value}", after, actor=attempt.provider)
            return after

    async def adopt(self, attempt: PaymentAttempt, outcome: RefundOutcome) -> None:
        """Write down a refund that a provider has: one of ours, or one that was made there by hand."""
        async with self._books.unit_of_work():
            invoice = await self._books.locked(attempt.invoice_id)
            attempt = await self._payments.locked(attempt.id)
            for each in await self._books.payments.refunds(attempt.id):
                if outcome.refund_id == each.id or outcome.reference == each.reference:
                    await self.settle(each, state=outcome.state, reference=outcome.reference)
                    return
            if outcome.state is not RefundState.SUCCEEDED:
                return  # nothing has moved that we would have to know of
            made = await self._new(
                attempt,
                refund_id=uuid7(self._books.clock),
                amount_minor=outcome.amount_minor,
                reason=f"made at {attempt.provider}",
                credit_note_id=None,
            )
            made = replace(made, state=outcome.state, reference=outcome.reference)
            await self._write(None, made, invoice=invoice, attempt=attempt)
            await self._note("refund.adopt", made, actor=attempt.provider)

    async def list(self, attempt_id: UUID) -> Sequence[PaymentRefund]:
        """Return the refunds of an attempt, oldest first."""
        return await self._books.payments.refunds(attempt_id)

    async def _require_refundable(
        self, invoice: Invoice, attempt: PaymentAttempt, *, credit_note_id: UUID | None
    ) -> None:
        if attempt.state is not AttemptState.SUCCEEDED:
            raise ConflictError("Only a payment that came in is refunded.", field="attempt_id")
        if credit_note_id is None:
            if invoice.status is InvoiceStatus.UNCOLLECTIBLE:
                raise ConflictError(
                    "The invoice is written off: it cannot be open again.", field="attempt_id"
                )
            return
        notes = await self._books.invoices.credit_notes(invoice.id)
        if credit_note_id not in {each.id for each in notes}:
            raise NotFoundError("There is no such credit note of this invoice.")

    async def _new(
        self,
        attempt: PaymentAttempt,
        *,
        refund_id: UUID,
        amount_minor: int,
        reason: str,
        credit_note_id: UUID | None,
    ) -> PaymentRefund:
        number = len(await self._books.payments.refunds(attempt.id)) + 1
        now = self._books.clock.now()
        return PaymentRefund(
            id=refund_id,
            attempt_id=attempt.id,
            invoice_id=attempt.invoice_id,
            tenant_id=attempt.tenant_id,
            number=number,
            idempotency_key=idempotency_key(attempt.id, number),
            state=RefundState.CREATED,
            amount_minor=amount_minor,
            reason=reason,
            created_at=now,
            changed_at=now,
            credit_note_id=credit_note_id,
        )

    async def _write(
        self, before: PaymentRefund | None, after: PaymentRefund, *, invoice: Invoice, attempt: PaymentAttempt
    ) -> PaymentRefund:
        """Keep a refund with everything that its change moves; return it as it is kept."""
        was, now = _phase(before), _phase(after)
        moved: Counter[str] = Counter()
        if was < HELD <= now:
            after = replace(after, from_credit_minor=await self._hold(after, invoice=invoice))
            moved.update(customer_credit=after.from_credit_minor, refund_payable=-after.from_credit_minor)
        if was < GONE <= now:
            moved.update(await self._pay_out(after, invoice=invoice))
        if now < GONE <= was:
            moved.update(await self._bounce(after, invoice=invoice, attempt=attempt))
        if now < HELD <= was:
            credit = after.from_credit_minor
            await add_credit(
                self._books,
                invoice,
                amount_minor=credit,
                reason=credit_source(after.attempt_id, after.credit_note_id),
            )
            moved.update(refund_payable=credit, customer_credit=-credit)
        change = after.amount_minor * (int(now >= HELD) - int(was >= HELD))
        refunded = attempt.refunded_minor + change
        state = AttemptState.REFUNDED if refunded == attempt.received_minor else AttemptState.SUCCEEDED
        changed = replace(attempt, refunded_minor=refunded, state=state, changed_at=after.changed_at)
        await self._books.payments.save(changed)
        keep = self._books.payments.add_refund if before is None else self._books.payments.save_refund
        await keep(after)
        await self._books.post(
            invoice,
            f"refund:{after.id}:{after.state.value}:{after.changed_at.isoformat()}",
            f"refund {after.number} of payment {attempt.number} of {invoice.number}",
            **moved,
        )
        return after

    async def _hold(self, refund: PaymentRefund, *, invoice: Invoice) -> int:
        """Take what comes out of credit."""
        return await take_credit(
            self._books,
            invoice,
            amount_minor=refund.amount_minor,
            reason=credit_source(refund.attempt_id, refund.credit_note_id),
        )

    async def _pay_out(self, refund: PaymentRefund, *, invoice: Invoice) -> Counter[str]:
        """Write down that the money is gone; what is on no account of the tenant is written off."""
        rest = refund.amount_minor - refund.from_credit_minor
        is_closed = invoice.status is InvoiceStatus.UNCOLLECTIBLE
        opened = 0 if is_closed else min(rest, invoice.paid_minor)
        if opened:
            await self._books.invoices.save(reopened(invoice, amount_minor=opened))
        return Counter(
            refund_payable=refund.from_credit_minor,
            receivable=opened,
            write_off=rest - opened,
            cash_clearing=-refund.amount_minor,
        )

    async def _bounce(
        self, refund: PaymentRefund, *, invoice: Invoice, attempt: PaymentAttempt
    ) -> Counter[str]:
        """Write down that the money came back to us."""
        rest = refund.amount_minor - refund.from_credit_minor
        moved = await take_in(self._books, invoice, amount_minor=rest, attempt=attempt)
        moved.update(cash_clearing=refund.amount_minor, refund_payable=-refund.from_credit_minor)
        return moved

    async def _get(self, attempt_id: UUID, refund_id: UUID) -> PaymentRefund:
        for each in await self._books.payments.refunds(attempt_id):
            if each.id == refund_id:
                return each
        raise NotFoundError("There is no such refund.")

    async def _note(self, action: str, refund: PaymentRefund, *, actor: str) -> None:
        await self._books.note_payment(
            action,
            kind="refund",
            identity=refund.id,
            tenant_id=refund.tenant_id,
            actor=actor,
            attempt_id=str(refund.attempt_id),
            invoice_id=str(refund.invoice_id),
            amount_minor=str(refund.amount_minor),
            reason=refund.reason,
        )


def _phase(refund: PaymentRefund | None) -> int:
    """Return how far a refund's money is: with us, held, or gone."""
    if refund is None or refund.state is RefundState.FAILED:
        return WITH_US
    return GONE if refund.state is RefundState.SUCCEEDED else HELD


def credit_source(attempt_id: UUID, credit_note_id: UUID | None) -> str:
    """Return the reason of the credit that a refund is taken from first."""
    return payment_reason(attempt_id) if credit_note_id is None else credit_reason(credit_note_id)
