"""What became of attempts and refunds whose answer was lost: the provider is asked, nothing is done again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from tritium_platform.billing.declines import classify_decline
from tritium_platform.billing.invoice import OPEN
from tritium_platform.billing.payment import (
    UNRESOLVED,
    AttemptState,
    ChargeOutcome,
    PaymentAttempt,
    PaymentRefund,
    RefundState,
)
from tritium_platform.errors import BitNetServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.inbox import PaymentInbox
    from tritium_platform.billing.payments import PaymentService
    from tritium_platform.billing.refunds import RefundService

_log = structlog.get_logger(__name__)
AT_ONCE = 100
# Whoever made an attempt gets its answer first; longer than a call may take.
LEFT_ALONE = timedelta(minutes=2)
# What a provider has not heard of by now was never sent: no request is on its way for so long.
LOST_AFTER = timedelta(minutes=30)
# How long a payer may take to confirm a charge.
ACTION_WITHIN = timedelta(days=7)
NOT_RECEIVED = "not_received"


@dataclass(frozen=True, slots=True, kw_only=True)
class JanitorRun:
    """What one run did: counts."""

    collected: int
    processed: int
    resolved: int
    waiting: int


@dataclass(frozen=True, kw_only=True)
class PaymentJanitor:
    """Resolves what is unknown; running it twice, or in two places, does everything once."""

    books: BillingBooks
    payments: PaymentService
    refunds: RefundService
    inbox: PaymentInbox

    async def run(self) -> JanitorRun:
        """Fetch lost events, deal with all, and ask about every attempt and refund that is not resolved."""
        collected = await self.inbox.collect()
        processed, waiting = await self.inbox.process()
        resolved = 0
        async for attempt in self._attempts():
            try:
                after = await self._resolve(attempt)
                resolved += after.state not in UNRESOLVED
                waiting += after.state in UNRESOLVED
            except BitNetServiceError as error:
                _log.warning("payment_not_resolved", attempt_id=str(attempt.id), code=error.code)
                waiting += 1
        async for refund in self._refunds():
            try:
                is_resolved = await self._resolve_refund(refund)
                resolved += is_resolved
                waiting += not is_resolved
            except BitNetServiceError as error:
                _log.warning("refund_not_resolved", refund_id=str(refund.id), code=error.code)
                waiting += 1
        return JanitorRun(collected=collected, processed=processed, resolved=resolved, waiting=waiting)

    async def _resolve(self, attempt: PaymentAttempt) -> PaymentAttempt:
        found = await self.payments.provider(attempt.provider).find_charge(attempt)
        age = self.books.clock.now() - attempt.created_at
        if found is None:
            if age < LOST_AFTER:
                return attempt
            lost = classify_decline(NOT_RECEIVED)
            found = ChargeOutcome(state=AttemptState.FAILED, decline=lost, code=NOT_RECEIVED)
        after = await self.payments.settle(attempt.id, found)
        if after.received_minor:  # what happened since then was not known to be about this attempt
            after = await self.inbox.refresh(attempt.id)
        if after.state is AttemptState.REQUIRES_ACTION:
            invoice = await self.books.invoices.get(after.invoice_id)
            is_settled = invoice is None or invoice.status not in OPEN
            if is_settled or (after.customer and age > ACTION_WITHIN):
                return await self.payments.cancel(after.id)
        return after

    async def _resolve_refund(self, refund: PaymentRefund) -> bool:
        attempt = await self.payments.get(refund.attempt_id)
        provider = self.payments.provider(attempt.provider)
        for outcome in await provider.find_refunds(attempt, await self.refunds.list(attempt.id)):
            if outcome.refund_id == refund.id:
                after = await self.refunds.settle(refund, state=outcome.state, reference=outcome.reference)
                return after.state in {RefundState.SUCCEEDED, RefundState.FAILED}
        if self.books.clock.now() - refund.created_at < LOST_AFTER:
            return False
        await self.refunds.settle(refund, state=RefundState.FAILED)
        return True

    async def _attempts(self) -> AsyncIterator[PaymentAttempt]:
        after, before = None, self.books.clock.now() - LEFT_ALONE
        while True:
            page = await self.books.payments.unresolved(before=before, limit=AT_ONCE, after=after)
            for each in page:
                yield each
            if len(page) < AT_ONCE:
                return
            after = page[-1].id

    async def _refunds(self) -> AsyncIterator[PaymentRefund]:
        after, before = None, self.books.clock.now() - LEFT_ALONE
        while True:
            page = await self.books.payments.unresolved_refunds(before=before, limit=AT_ONCE, after=after)
            for each in page:
                yield each
            if len(page) < AT_ONCE:
                return
            after = page[-1].id
