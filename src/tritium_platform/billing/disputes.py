"""Payments that a payer's bank takes back: what they move, and what that says in the journal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tritium_platform.billing.payment import DisputeState, PaymentDispute
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.payment import DisputeOutcome, PaymentAttempt


class DisputeService:
    """Follows disputes; the invoice stays paid, and what is lost is written off."""

    def __init__(self, *, books: BillingBooks) -> None:
        self._books = books

    async def settle(self, attempt: PaymentAttempt, outcome: DisputeOutcome) -> None:
        """Write down what a provider says about a dispute; what is written already changes nothing."""
        async with self._books.unit_of_work():
            invoice = await self._books.locked(attempt.invoice_id)
            known = await self._books.payments.disputes(attempt.id)
            before = next((each for each in known if each.reference == outcome.reference), None)
            if before is not None and _facts(before) == _facts(outcome):
                return
            now = self._books.clock.now()
            after = PaymentDispute(
                id=before.id if before else uuid7(self._books.clock),
                attempt_id=attempt.id,
                tenant_id=attempt.tenant_id,
                provider=attempt.provider,
                reference=outcome.reference,
                state=outcome.state,
                amount_minor=outcome.amount_minor,
                cash_minor=outcome.cash_minor,
                fee_minor=outcome.fee_minor,
                version=before.version + 1 if before else 1,
                created_at=before.created_at if before else now,
                changed_at=now,
            )
            await self._books.payments.save_dispute(after)
            moved = position(after)
            if before is not None:
                moved.subtract(position(before))
            await self._books.post(
                invoice,
                f"dispute:{after.id}:{after.version}",
                f"dispute of payment {attempt.number} of {invoice.number}: {after.state.value}",
                **moved,
            )
            await self._books.note_payment(
                f"dispute.{after.state.value}",
                kind="dispute",
                identity=after.id,
                tenant_id=after.tenant_id,
                actor=attempt.provider,
                attempt_id=str(attempt.id),
                invoice_id=str(attempt.invoice_id),
                amount_minor=str(after.amount_minor),
            )

    async def list(self, attempt_id: UUID) -> Sequence[PaymentDispute]:
        """Return the disputes of an attempt, oldest first."""
        return await self._books.payments.disputes(attempt_id)


def position(dispute: PaymentDispute) -> Counter[str]:
    """Return what all of a dispute so far comes to, by account; it sums to zero.

    What the bank took is disputed until it is decided; then it came back, or it is written off.
    """
    missing = -dispute.cash_minor - dispute.fee_minor
    where = "disputed" if dispute.state is DisputeState.OPENED else "write_off"
    return Counter({"cash_clearing": dispute.cash_minor, "processor_fee": dispute.fee_minor, where: missing})


def _facts(of: PaymentDispute | DisputeOutcome) -> tuple[DisputeState, int, int, int]:
    return of.state, of.amount_minor, of.cash_minor, of.fee_minor
