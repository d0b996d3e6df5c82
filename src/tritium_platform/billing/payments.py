"""Being paid: an attempt is written down before anybody is charged, and then what became of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog

from tritium_platform.billing.invoice import OPEN, Invoice, InvoiceKind
from tritium_platform.billing.payment import (
    PAID,
    UNRESOLVED,
    AttemptState,
    ChargeOutcome,
    PaymentAttempt,
    PaymentMethod,
    idempotency_key,
)
from tritium_platform.billing.receipts import take_in
from tritium_platform.billing.settlement import require_text
from tritium_platform.errors import BitNetServiceError, ConflictError, NotFoundError, ValidationError
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.payment import (
        DisputeOutcome,
        PaymentRefund,
        ProviderEvent,
        RefundOutcome,
        StatementItem,
    )

_log = structlog.get_logger(__name__)


class PaymentProvider(Protocol):
    """Moves money for us. Whatever raises a BitNetServiceError may have happened all the same."""

    @property
    def name(self) -> str:
        """Return the name under which attempts remember it."""

    async def charge(self, attempt: PaymentAttempt, *, description: str) -> ChargeOutcome:
        """Charge what an attempt asks for; under one idempotency key at most once."""

    async def find_charge(self, attempt: PaymentAttempt) -> ChargeOutcome | None:
        """Return what became of an attempt; None if the provider never heard of it."""

    async def cancel(self, attempt: PaymentAttempt) -> ChargeOutcome:
        """Give up an attempt that waits for the payer; return what became of it."""

    async def refund(self, attempt: PaymentAttempt, refund: PaymentRefund) -> RefundOutcome:
        """Give money back; under one idempotency key at most once."""

    async def find_refunds(
        self, attempt: PaymentAttempt, known: Sequence[PaymentRefund]
    ) -> Sequence[RefundOutcome]:
        """Return every refund of an attempt that the provider has; `known` are those we have."""

    async def find_disputes(self, attempt: PaymentAttempt) -> Sequence[DisputeOutcome]:
        """Return every dispute of an attempt."""

    async def statement(self, *, start: datetime, end: datetime) -> Sequence[StatementItem] | None:
        """Return every payment, refund and dispute that began in a period; None: no list is kept of them."""

    async def find_events(self, *, since: datetime) -> Sequence[ProviderEvent]:
        """Return what happened since a moment, for the notices that were lost on their way."""


class PaymentService:
    """Makes attempts, and writes down what became of them: attempt, invoice, journal and audit together.

    Args:
        books: what every change is written into.
        providers: by their names; a tenant without a payment method pays by the first one.
    """

    def __init__(self, *, books: BillingBooks, providers: Mapping[str, PaymentProvider]) -> None:
        self._books = books
        self._providers = providers

    async def set_method(
        self, tenant_id: UUID, *, provider: str, customer: str, method: str, actor: str
    ) -> PaymentMethod:
        """Let a tenant be charged at a provider from now on; ValidationError if it is not configured."""
        self.provider(provider)
        require_text(customer, field="customer")
        require_text(method, field="method")
        made = PaymentMethod(
            tenant_id=tenant_id,
            provider=provider,
            customer=customer,
            method=method,
            created_at=self._books.clock.now(),
        )
        async with self._books.unit_of_work():
            await self._books.payments.set_method(made)
            await self._books.note_payment(
                "payment_method.set",
                kind="tenant",
                identity=tenant_id,
                tenant_id=tenant_id,
                actor=actor,
                provider=provider,
            )
        return made

    async def process_payment(
        self, invoice_id: UUID, *, key: str | None, actor: str, amount_minor: int | None = None
    ) -> PaymentAttempt:
        """Try to be paid for an invoice, whole or in part; a second call under a key changes nothing.

        The attempt is committed before the provider is asked. If its answer is lost, the attempt is unknown,
        and nobody is charged again until the provider said what became of it.

        Raises:
            NotFoundError: there is no such invoice.
            ValidationError: more is asked for than is open.
            ConflictError: it is not open, another attempt is not resolved, or its provider is not configured.
        """
        attempt_id = uuid7(self._books.clock)
        request = ("pay", str(invoice_id), str(amount_minor))
        async with self._books.unit_of_work():
            earlier = await self._books.begin(key, request=request, subject_id=attempt_id)
            if earlier is not None:
                return await self.get(earlier)
            invoice = await self._books.locked(invoice_id)
            attempt = await self._begin(invoice, attempt_id=attempt_id, amount_minor=amount_minor)
            await self._note("payment.create", attempt, actor=actor)
        try:
            provider = self.provider(attempt.provider)
            outcome = await provider.charge(attempt, description=invoice.number or str(invoice.id))
        except BitNetServiceError as error:
            _log.warning("payment_unknown", attempt_id=str(attempt.id), code=error.code)
            outcome = ChargeOutcome(state=AttemptState.UNKNOWN, code=error.code)
        return await self.settle(attempt.id, outcome)

    async def settle(
        self, attempt_id: UUID, outcome: ChargeOutcome, *, actor: str | None = None
    ) -> PaymentAttempt:
        """Write down what a provider says about an attempt; what is written already changes nothing."""
        invoice_id = (await self.get(attempt_id)).invoice_id
        async with self._books.unit_of_work():
            invoice = await self._books.locked(invoice_id)
            before = await self.locked(attempt_id)
            after = advance(before, outcome)
            if after == before:
                return before
            after = replace(after, changed_at=self._books.clock.now())
            came = after.received_minor - before.received_minor
            fee = (after.fee_minor or 0) - (before.fee_minor or 0)
            moved: Counter[str] = Counter()
            if came:
                moved = await take_in(self._books, invoice, amount_minor=came, attempt=after)
            moved.update(cash_clearing=came - fee, processor_fee=fee)
            await self._books.post(
                invoice,
                f"payment:{after.id}:{after.received_minor}:{after.fee_minor or 0}",
                f"payment {after.number} of {invoice.number} by {after.provider}",
                **moved,
            )
            await self._books.payments.save(after)
            await self._note(f"payment.{after.state.value}", after, actor=actor or after.provider)
            return after

    async def receive(
        self, attempt_id: UUID, *, amount_minor: int, reference: str, key: str | None, actor: str
    ) -> PaymentAttempt:
        """Note that a bank transfer came in; what is more than is open becomes prepaid credit.

        Raises:
            NotFoundError: there is no such attempt.
            ValidationError: the amount is not above zero.
            ConflictError: the attempt does not wait for a transfer.
        """
        require_text(reference, field="reference")
        if type(amount_minor) is not int or amount_minor <= 0:
            raise ValidationError("A payment is a whole number of minor units above 0.", field="amount_minor")
        outcome = ChargeOutcome(
            state=AttemptState.SUCCEEDED, reference=reference, received_minor=amount_minor
        )
        request = ("receive", str(attempt_id), str(amount_minor), reference)
        async with self._books.unit_of_work():
            attempt = await self.get(attempt_id)
            subject_id = uuid7(self._books.clock)
            if await self._books.begin(key, request=request, subject_id=subject_id) is not None:
                return await self.get(attempt_id)  # the other one may have ended just now
            # Locked before it is judged: of two transfers at a time both would be acknowledged, and one kept.
            await self._books.locked(attempt.invoice_id)
            attempt = await self.locked(attempt_id)
            if attempt.customer or attempt.state is not AttemptState.REQUIRES_ACTION:
                raise ConflictError("This attempt does not wait for a bank transfer.", field="attempt_id")
            return await self.settle(attempt_id, outcome, actor=actor)

    async def cancel(self, attempt_id: UUID) -> PaymentAttempt:
        """Give up an attempt that waits for the payer; ConflictError if it does not."""
        attempt = await self.get(attempt_id)
        if attempt.state is not AttemptState.REQUIRES_ACTION:
            raise ConflictError(
                "Only an attempt that waits for the payer can be canceled.", field="attempt_id"
            )
        return await self.settle(attempt_id, await self.provider(attempt.provider).cancel(attempt))

    async def get(self, attempt_id: UUID, *, tenant_id: UUID | None = None) -> PaymentAttempt:
        """Return an attempt, of one tenant if that is given; NotFoundError if there is none."""
        attempt = await self._books.payments.get(attempt_id)
        if attempt is None or tenant_id not in (None, attempt.tenant_id):
            raise attempt_not_found()
        return attempt

    async def locked(self, attempt_id: UUID) -> PaymentAttempt:
        """Return an attempt to change; NotFoundError if there is none."""
        attempt = await self._books.payments.lock(attempt_id)
        if attempt is None:
            raise attempt_not_found()
        return attempt

    @property
    def providers(self) -> Mapping[str, PaymentProvider]:
        """All of them, by their names."""
        return self._providers

    def provider(self, name: str) -> PaymentProvider:
        """Return a provider; ConflictError if it is not configured."""
        if name not in self._providers:
            raise ConflictError(f"The payment provider {name[:20]} is not configured.", field="provider")
        return self._providers[name]

    async def _begin(self, invoice: Invoice, *, attempt_id: UUID, amount_minor: int | None) -> PaymentAttempt:
        if invoice.status not in OPEN or invoice.kind is not InvoiceKind.INVOICE:
            raise ConflictError(f"The invoice is not open: it is {invoice.status.value}.", field="invoice_id")
        amount = invoice.open_minor if amount_minor is None else amount_minor
        if type(amount) is not int or not 0 < amount <= invoice.open_minor:
            raise ValidationError(
                f"{invoice.money(invoice.open_minor)} are open: ask for up to that.", field="amount_minor"
            )
        method = await self._books.payments.method(invoice.tenant_id)
        name = next(iter(self._providers)) if method is None else self.provider(method.provider).name
        number = len(await self._books.payments.of_invoice(invoice.id)) + 1
        now = self._books.clock.now()
        attempt = PaymentAttempt(
            id=attempt_id,
            invoice_id=invoice.id,
            tenant_id=invoice.tenant_id,
            number=number,
            provider=name,
            idempotency_key=idempotency_key(invoice.id, number),
            state=AttemptState.CREATED,
            amount_minor=amount,
            currency=invoice.currency,
            created_at=now,
            changed_at=now,
            customer=method.customer if method else "",
            method=method.method if method else "",
        )
        if not await self._books.payments.add(attempt):
            raise ConflictError(
                "Another attempt for this invoice is not resolved yet: wait for it, or cancel it.",
                field="invoice_id",
            )
        return attempt

    async def _note(self, action: str, attempt: PaymentAttempt, *, actor: str) -> None:
        await self._books.note_payment(
            action,
            kind="payment",
            identity=attempt.id,
            tenant_id=attempt.tenant_id,
            actor=actor,
            invoice_id=str(attempt.invoice_id),
            amount_minor=str(attempt.amount_minor),
            received_minor=str(attempt.received_minor),
            currency=attempt.currency,
            provider=attempt.provider,
            code=attempt.code or None,
        )


def advance(attempt: PaymentAttempt, outcome: ChargeOutcome) -> PaymentAttempt:
    """Return an attempt as it is once a provider said something about it.

    What was paid stays paid, whatever is said later; a failure may turn out to be none.
    """
    known = replace(attempt, reference=attempt.reference or outcome.reference)
    if outcome.state in PAID:
        return replace(
            known,
            state=attempt.state if attempt.state in PAID else AttemptState.SUCCEEDED,
            received_minor=max(attempt.received_minor, outcome.received_minor),
            fee_minor=outcome.fee_minor if attempt.fee_minor is None else attempt.fee_minor,
            decline=None,
            code="",
        )
    if attempt.state not in UNRESOLVED:
        return attempt
    if outcome.state is AttemptState.UNKNOWN:
        is_new = attempt.state is AttemptState.CREATED
        return replace(known, state=AttemptState.UNKNOWN, code=outcome.code) if is_new else known
    return replace(known, state=outcome.state, decline=outcome.decline, code=outcome.code)


def attempt_not_found() -> NotFoundError:
    """Return the error for an attempt that is not there, or somebody else's."""
    return NotFoundError("There is no such payment attempt.")
