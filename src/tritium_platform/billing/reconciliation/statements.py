"""Asks every payment provider for its list of a period, and compares each entry with ours and the journal."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import structlog

from tritium_platform.billing.payment import StatementKind
from tritium_platform.billing.reconciliation.statement import (
    compare_dispute_movement,
    compare_items,
    compare_payment_movement,
    compare_refund_movement,
    dispute_item,
    is_expected_there,
    is_money_of_strangers,
    missing_here,
    missing_there,
    payment_item,
    refund_item,
)
from tritium_platform.errors import BitNetServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.billing.books import BillingBooks
    from tritium_platform.billing.payment import (
        PaymentAttempt,
        PaymentDispute,
        PaymentRefund,
        StatementItem,
    )
    from tritium_platform.billing.payments import PaymentProvider
    from tritium_platform.billing.reconciliation.model import Difference

Kept = TypeVar("Kept", "PaymentAttempt", "PaymentRefund", "PaymentDispute")
_log = structlog.get_logger(__name__)
# A day is looked at a week long, until an hour ago: by then the janitor has found out what became of it.
PERIOD, SETTLED = timedelta(days=7), timedelta(hours=1)
# What one side has at the edge of the period the other one may have outside: both are asked for more.
EDGE = timedelta(hours=2)
AT_ONCE = 200


class StatementComparison:
    """Compares payments, refunds and disputes one by one with what their providers say.

    A provider without a list (bank transfers) is compared with the journal alone: what was recorded by hand
    is all the statement there is.
    """

    def __init__(self, *, books: BillingBooks, providers: Mapping[str, PaymentProvider]) -> None:
        self._books = books
        self._providers = providers

    async def compare(self) -> tuple[Counter[str], list[Difference]]:
        """Return how many of each were compared, and what differs.

        A provider that cannot be asked is counted as `providers_silent`: it says nothing, so nothing differs.
        """
        counted: Counter[str] = Counter()
        found: list[Difference] = []
        end = self._books.clock.now() - SETTLED
        start = end - PERIOD
        for name, provider in self._providers.items():
            try:
                said = await provider.statement(start=start - EDGE, end=end + EDGE)
            except BitNetServiceError as error:
                _note_silence(name, error, counted=counted)
                said = None
            named = set[str]()
            for item in said or ():
                named.add(item.reference)
                if start <= item.created_at < end:
                    counted["provider_entries"] += 1
                    found += await self._compare_said(name, item)
            known = None if said is None else named
            found += await self._compare_kept(name, start, end, said=known, counted=counted)
        return counted, found

    async def _compare_said(self, provider: str, item: StatementItem) -> list[Difference]:
        """Find what we have of something that a provider says, and compare."""
        attempt = await self._attempt_of(provider, item)
        if attempt is None:
            return [missing_here(item, tenant_id=None)] if is_money_of_strangers(item) else []
        kept = await self._kept(item, attempt)
        if kept is None:
            return [missing_here(item, tenant_id=attempt.tenant_id)]
        return compare_items(item, kept, tenant_id=attempt.tenant_id)

    async def _attempt_of(self, provider: str, item: StatementItem) -> PaymentAttempt | None:
        found = await self._books.payments.find(provider, item.payment)
        if found is None and item.kind is StatementKind.PAYMENT and item.own_id is not None:
            found = await self._books.payments.get(item.own_id)
        return found

    async def _kept(self, item: StatementItem, attempt: PaymentAttempt) -> StatementItem | None:
        if item.kind is StatementKind.PAYMENT:
            return payment_item(attempt)
        kept: list[StatementItem]
        if item.kind is StatementKind.REFUND:
            kept = [refund_item(each, attempt) for each in await self._books.payments.refunds(attempt.id)]
        else:
            kept = [dispute_item(each, attempt) for each in await self._books.payments.disputes(attempt.id)]
        return next(
            (each for each in kept if each.reference == item.reference or each.own_id == item.own_id), None
        )

    async def _compare_kept(
        self, provider: str, start: datetime, end: datetime, *, said: set[str] | None, counted: Counter[str]
    ) -> list[Difference]:
        """Compare what we have of a period with what the provider named (None: nothing), and the journal."""
        found: list[Difference] = []
        store = self._books.payments
        async for attempt in _all(store.attempts_between, start=start, end=end):
            if attempt.provider == provider:
                counted["payments_by_provider"] += 1
                moved = await self._moved(f"payment:{attempt.id}", attempt.tenant_id)
                found += compare_payment_movement(attempt, moved)
                found += _absent(payment_item(attempt), attempt, said=said)
        async for refund in _all(store.refunds_between, start=start, end=end):
            attempt = await self._about(refund)
            if attempt.provider == provider:
                counted["refunds"] += 1
                moved = await self._moved(f"refund:{refund.id}", refund.tenant_id)
                found += compare_refund_movement(refund, attempt, moved)
                found += _absent(refund_item(refund, attempt), attempt, said=said)
        async for dispute in _all(store.disputes_between, start=start, end=end):
            attempt = await self._about(dispute)
            if attempt.provider == provider:
                counted["disputes"] += 1
                moved = await self._moved(f"dispute:{dispute.id}", dispute.tenant_id)
                found += compare_dispute_movement(dispute, attempt, moved)
                try:
                    found += await self._absent_dispute(dispute, attempt, said=said)
                except BitNetServiceError as error:
                    _note_silence(provider, error, counted=counted)
                    said = None
        return found

    async def _absent_dispute(
        self, dispute: PaymentDispute, attempt: PaymentAttempt, *, said: set[str] | None
    ) -> list[Difference]:
        """Look for a dispute that is not in the list: we may have heard of it long after it began."""
        if said is None or dispute.reference in said:
            return []
        told = await self._providers[attempt.provider].find_disputes(attempt)
        return _absent(dispute_item(dispute, attempt), attempt, said={each.reference for each in told})

    async def _about(self, of: PaymentRefund | PaymentDispute) -> PaymentAttempt:
        attempt = await self._books.payments.get(of.attempt_id)
        if attempt is None:  # a foreign key forbids it
            raise LookupError(of.attempt_id)
        return attempt

    async def _moved(self, operation: str, tenant_id: UUID) -> Counter[str]:
        moved: Counter[str] = Counter()
        for entry in await self._books.journal.entries_about(operation, tenant_id=tenant_id):
            moved[entry.account.value] += entry.amount_minor
        return moved


def _note_silence(provider: str, error: BitNetServiceError, *, counted: Counter[str]) -> None:
    _log.error("provider_statement_failed", provider=provider, code=error.code)
    counted["providers_silent"] += 1


def _absent(kept: StatementItem, attempt: PaymentAttempt, *, said: set[str] | None) -> list[Difference]:
    """Return the difference if a provider should have named something and did not."""
    if said is None or kept.reference in said:
        return []
    if not is_expected_there(kept, is_with_provider=bool(attempt.customer)):
        return []
    return [missing_there(kept, tenant_id=attempt.tenant_id)]


async def _all(
    read: Callable[..., Awaitable[Sequence[Kept]]], *, start: datetime, end: datetime
) -> AsyncIterator[Kept]:
    """Give everything of a period, page by page."""
    after = None
    while True:
        page = await read(start=start, end=end, limit=AT_ONCE, after=after)
        for each in page:
            yield each
        if len(page) < AT_ONCE:
            return
        after = page[-1].id
