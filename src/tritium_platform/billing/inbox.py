"""What providers tell us by themselves: kept once, dealt with later, and never believed without asking."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from tritium_platform.errors import BitNetServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from tritium_platform.billing.disputes import DisputeService
    from tritium_platform.billing.payment import PaymentAttempt, ProviderEvent
    from tritium_platform.billing.payment_store import NoticeStore, PaymentStore
    from tritium_platform.billing.payments import PaymentProvider, PaymentService
    from tritium_platform.billing.refunds import RefundService
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)
AT_ONCE = 100
# An event may be listed a little later than it happened.
LISTED_WITHIN = timedelta(hours=1)
# Who never looked into a provider's list begins as far back as it goes.
KEPT_FOR = timedelta(days=29)
# An event may be here before the answer that says which attempt it is about.
KNOWN_WITHIN = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class PaymentInbox:
    """Keeps events, and asks the provider what is true now about the payment that each is about.

    So an event that comes twice, late, or in another order says nothing wrong, and one that is lost is found
    in the provider's own list.
    """

    events: NoticeStore
    store: PaymentStore
    payments: PaymentService
    refunds: RefundService
    disputes: DisputeService
    providers: Mapping[str, PaymentProvider]
    clock: Clock

    async def receive(self, event: ProviderEvent) -> bool:
        """Keep an event whose author is proven; False if it is kept already."""
        return await self.events.add(event)

    async def process(self) -> tuple[int, int]:
        """Deal with everything that waits; return how many were dealt with, and how many wait on."""
        done, failed, after = 0, 0, None
        while True:
            page = await self.events.pending(limit=AT_ONCE, after=after)
            for event in page:
                try:
                    attempt = await self._about(event)
                    if attempt is not None:
                        await self.refresh(attempt.id)
                    elif event.reference and self.clock.now() - event.received_at < KNOWN_WITHIN:
                        continue  # the attempt may be one whose answer is not here yet
                    await self.events.close(event.id, at=self.clock.now())
                    done += 1
                except BitNetServiceError as error:
                    _log.warning("provider_event_waits", event_id=event.event_id, code=error.code)
                    failed += 1
            if len(page) < AT_ONCE:
                return done, failed
            after = page[-1].id

    async def collect(self) -> int:
        """Fetch what was lost on its way from the providers' lists; return how many events were new."""
        count = 0
        for provider in self.providers.values():
            now = self.clock.now()
            seen = await self.events.cursor(provider.name)
            try:
                found = await provider.find_events(since=(seen or now - KEPT_FOR) - LISTED_WITHIN)
            except BitNetServiceError as error:
                _log.warning("provider_events_not_listed", provider=provider.name, code=error.code)
                continue
            for event in found:
                count += await self.receive(event)
            await self.events.move_cursor(provider.name, to=now)
        return count

    async def refresh(self, attempt_id: UUID) -> PaymentAttempt:
        """Ask a provider what is true about an attempt, its refunds and disputes, and write it down."""
        attempt = await self.payments.get(attempt_id)
        provider = self.payments.provider(attempt.provider)
        outcome = await provider.find_charge(attempt)
        if outcome is not None:
            attempt = await self.payments.settle(attempt_id, outcome)
        if attempt.received_minor:
            for refund in await provider.find_refunds(attempt, await self.refunds.list(attempt_id)):
                await self.refunds.adopt(attempt, refund)
            for dispute in await provider.find_disputes(attempt):
                await self.disputes.settle(attempt, dispute)
        return await self.payments.get(attempt_id)

    async def _about(self, event: ProviderEvent) -> PaymentAttempt | None:
        """Return the attempt that an event is about; None if it is none of ours."""
        found = await self.store.find(event.provider, event.reference) if event.reference else None
        if found is None and event.attempt_id is not None:
            named = await self.store.get(event.attempt_id)
            found = named if named is not None and named.provider == event.provider else None
        return found
