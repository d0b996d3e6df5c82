"""Payments and the inbox of providers' events in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tritium_platform.billing.payment import UNRESOLVED, RefundState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.adapters.memory.database import MemoryDatabase
    from tritium_platform.billing.dunning_notice import DunningNotice
    from tritium_platform.billing.payment import (
        PaymentAttempt,
        PaymentDispute,
        PaymentMethod,
        PaymentRefund,
        ProviderEvent,
    )

Kept = TypeVar("Kept", "PaymentAttempt", "PaymentRefund", "PaymentDispute")
WAITING = (RefundState.CREATED, RefundState.UNKNOWN)


class MemoryPaymentStore:
    """Keeps attempts, refunds, disputes, and what tenants are charged with."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, attempt: PaymentAttempt) -> bool:
        """Keep a new attempt; False if the invoice has one that is not resolved, or one of that number."""
        async with self._database.write():
            others = await self.of_invoice(attempt.invoice_id)
            if any(each.number == attempt.number or each.state in UNRESOLVED for each in others):
                return False
            self._attempts[attempt.id] = attempt
        return True

    async def lock(self, attempt_id: UUID) -> PaymentAttempt | None:
        """Return an attempt that nobody else changes until the unit of work ends."""
        return self._attempts.get(attempt_id)

    async def save(self, attempt: PaymentAttempt) -> None:
        """Keep what changed of an attempt."""
        async with self._database.write():
            self._attempts[attempt.id] = attempt

    async def get(self, attempt_id: UUID) -> PaymentAttempt | None:
        """Return an attempt."""
        return self._attempts.get(attempt_id)

    async def find(self, provider: str, reference: str) -> PaymentAttempt | None:
        """Return the attempt that a provider knows by a reference."""
        for each in self._attempts.values():
            if (each.provider, each.reference) == (provider, reference):
                return each
        return None

    async def of_invoice(self, invoice_id: UUID) -> Sequence[PaymentAttempt]:
        """Return the attempts of an invoice, oldest first."""
        found = [each for each in self._attempts.values() if each.invoice_id == invoice_id]
        return sorted(found, key=lambda each: each.number)

    async def list(
        self, *, tenant_id: UUID | None, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentAttempt]:
        """Return attempts of one tenant or of all, newest first, those older than `after`."""
        found = [
            each
            for each in self._attempts.values()
            if tenant_id in (None, each.tenant_id) and (after is None or each.id < after)
        ]
        return sorted(found, key=lambda each: each.id, reverse=True)[:limit]

    async def unresolved(
        self, *, before: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentAttempt]:
        """Return attempts that are not resolved and were made before a moment, by their ids."""
        found = [
            each
            for each in self._attempts.values()
            if each.state in UNRESOLVED and each.created_at < before and (after is None or each.id > after)
        ]
        return sorted(found, key=lambda each: each.id)[:limit]

    async def add_refund(self, refund: PaymentRefund) -> None:
        """Keep a new refund."""
        await self.save_refund(refund)

    async def save_refund(self, refund: PaymentRefund) -> None:
        """Keep what changed of a refund."""
        async with self._database.write():
            self._refunds[refund.id] = refund

    async def refunds(self, attempt_id: UUID) -> Sequence[PaymentRefund]:
        """Return the refunds of an attempt, oldest first."""
        found = [each for each in self._refunds.values() if each.attempt_id == attempt_id]
        return sorted(found, key=lambda each: each.number)

    async def unresolved_refunds(
        self, *, before: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentRefund]:
        """Return refunds of which it is not known yet what became of them, made before a moment."""
        found = [
            each
            for each in self._refunds.values()
            if each.state in WAITING and each.created_at < before and (after is None or each.id > after)
        ]
        return sorted(found, key=lambda each: each.id)[:limit]

    async def save_dispute(self, dispute: PaymentDispute) -> None:
        """Keep a dispute, new or changed."""
        async with self._database.write():
            self._database.tables["payment_disputes"][dispute.id] = dispute

    async def disputes(self, attempt_id: UUID) -> Sequence[PaymentDispute]:
        """Return the disputes of an attempt, oldest first."""
        kept: dict[UUID, PaymentDispute] = self._database.tables["payment_disputes"]
        return [each for _, each in sorted(kept.items()) if each.attempt_id == attempt_id]

    async def attempts_between(
        self, *, start: datetime, end: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentAttempt]:
        """Return attempts that were made in a period, by their ids."""
        return _between(self._attempts, start=start, end=end, limit=limit, after=after)

    async def refunds_between(
        self, *, start: datetime, end: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentRefund]:
        """Return refunds that were made in a period, by their ids."""
        return _between(self._refunds, start=start, end=end, limit=limit, after=after)

    async def disputes_between(
        self, *, start: datetime, end: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentDispute]:
        """Return disputes that were heard of in a period, by their ids."""
        return _between(
            self._database.tables["payment_disputes"], start=start, end=end, limit=limit, after=after
        )

    async def add_notice(self, notice: DunningNotice) -> bool:
        """Keep a notice to a customer; False if there is one of that invoice, attempt and kind."""
        async with self._database.write():
            place = (notice.invoice_id, notice.attempt_number, notice.kind)
            kept: dict[object, DunningNotice] = self._database.tables["dunning_notices"]
            return kept.setdefault(place, notice) is notice

    async def notices(
        self, *, tenant_id: UUID | None, limit: int, after: UUID | None = None
    ) -> Sequence[DunningNotice]:
        """Return notices to one tenant or to all, oldest first, those newer than `after`."""
        kept: dict[object, DunningNotice] = self._database.tables["dunning_notices"]
        found = [
            each
            for each in kept.values()
            if tenant_id in {None, each.tenant_id} and (after is None or each.id > after)
        ]
        return sorted(found, key=lambda each: each.id)[:limit]

    async def set_method(self, method: PaymentMethod) -> None:
        """Let a tenant be charged that way from now on."""
        async with self._database.write():
            self._database.tables["payment_methods"][method.tenant_id] = method

    async def method(self, tenant_id: UUID) -> PaymentMethod | None:
        """Return what a tenant is charged with; None: by bank transfer."""
        return self._database.tables["payment_methods"].get(tenant_id)

    @property
    def _attempts(self) -> dict[UUID, PaymentAttempt]:
        return self._database.tables["payment_attempts"]

    @property
    def _refunds(self) -> dict[UUID, PaymentRefund]:
        return self._database.tables["payment_refunds"]


def _between(
    table: dict[UUID, Kept], *, start: datetime, end: datetime, limit: int, after: UUID | None
) -> list[Kept]:
    found = [
        each
        for each in table.values()
        if start <= each.created_at < end and (after is None or each.id > after)
    ]
    return sorted(found, key=lambda each: each.id)[:limit]


class MemoryNoticeStore:
    """Keeps events once, and how far a provider's list of them was read."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, event: ProviderEvent) -> bool:
        """Keep an event; False if it is kept already."""
        async with self._database.write():
            names: dict[tuple[str, str], ProviderEvent] = self._database.tables["provider_events"]
            return names.setdefault((event.provider, event.event_id), event) is event

    async def pending(self, *, limit: int, after: UUID | None = None) -> Sequence[ProviderEvent]:
        """Return events that nobody dealt with, by their ids."""
        closed = self._database.tables["processed_events"]
        kept: dict[tuple[str, str], ProviderEvent] = self._database.tables["provider_events"]
        found = [
            each for each in kept.values() if each.id not in closed and (after is None or each.id > after)
        ]
        return sorted(found, key=lambda each: each.id)[:limit]

    async def close(self, event_id: UUID, *, at: datetime) -> None:
        """Note that an event was dealt with."""
        async with self._database.write():
            self._database.tables["processed_events"][event_id] = at

    async def cursor(self, provider: str) -> datetime | None:
        """Return until when a provider's list was read; None if it never was."""
        return self._database.tables["provider_cursors"].get(provider)

    async def move_cursor(self, provider: str, *, to: datetime) -> None:
        """Note until when a provider's list was read."""
        async with self._database.write():
            self._database.tables["provider_cursors"][provider] = to
