"""What payments are kept in, whatever the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.billing.dunning_notice import DunningNotice
    from tritium_platform.billing.payment import (
        PaymentAttempt,
        PaymentDispute,
        PaymentMethod,
        PaymentRefund,
        ProviderEvent,
    )


class PaymentStore(Protocol):
    """Keeps attempts, refunds, disputes, what tenants are charged with, and what they are to be told."""

    async def add_notice(self, notice: DunningNotice) -> bool:
        """Keep a notice to a customer; False if there is one of that invoice, attempt and kind."""

    async def notices(
        self, *, tenant_id: UUID | None, limit: int, after: UUID | None = None
    ) -> Sequence[DunningNotice]:
        """Return notices to one tenant or to all, oldest first, those newer than `after`."""

    async def add(self, attempt: PaymentAttempt) -> bool:
        """Keep a new attempt; False if the invoice has one that is not resolved, or one of that number."""

    async def lock(self, attempt_id: UUID) -> PaymentAttempt | None:
        """Return an attempt that nobody else changes until the unit of work ends."""

    async def save(self, attempt: PaymentAttempt) -> None:
        """Keep what changed of an attempt."""

    async def get(self, attempt_id: UUID) -> PaymentAttempt | None:
        """Return an attempt."""

    async def find(self, provider: str, reference: str) -> PaymentAttempt | None:
        """Return the attempt that a provider knows by a reference."""

    async def of_invoice(self, invoice_id: UUID) -> Sequence[PaymentAttempt]:
        """Return the attempts of an invoice, oldest first."""

    async def list(
        self, *, tenant_id: UUID | None, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentAttempt]:
        """Return attempts of one tenant or of all, newest first, those older than `after`."""

    async def unresolved(
        self, *, before: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentAttempt]:
        """Return attempts that are not resolved and were made before a moment, by their ids."""

    async def add_refund(self, refund: PaymentRefund) -> None:
        """Keep a new refund."""

    async def save_refund(self, refund: PaymentRefund) -> None:
        """Keep what changed of a refund."""

    async def refunds(self, attempt_id: UUID) -> Sequence[PaymentRefund]:
        """Return the refunds of an attempt, oldest first."""

    async def unresolved_refunds(
        self, *, before: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentRefund]:
        """Return refunds of which it is not known yet what became of them, made before a moment."""

    async def save_dispute(self, dispute: PaymentDispute) -> None:
        """Keep a dispute, new or changed."""

    async def disputes(self, attempt_id: UUID) -> Sequence[PaymentDispute]:
        """Return the disputes of an attempt, oldest first."""

    async def attempts_between(
        self, *, start: datetime, end: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentAttempt]:
        """Return attempts that were made in a period, by their ids."""

    async def refunds_between(
        self, *, start: datetime, end: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentRefund]:
        """Return refunds that were made in a period, by their ids."""

    async def disputes_between(
        self, *, start: datetime, end: datetime, limit: int, after: UUID | None = None
    ) -> Sequence[PaymentDispute]:
        """Return disputes that were heard of in a period, by their ids."""

    async def set_method(self, method: PaymentMethod) -> None:
        """Let a tenant be charged that way from now on."""

    async def method(self, tenant_id: UUID) -> PaymentMethod | None:
        """Return what a tenant is charged with; None: by bank transfer."""


class NoticeStore(Protocol):
    """Keeps providers' events once, and how far a provider's list of them was read."""

    async def add(self, event: ProviderEvent) -> bool:
        """Keep an event; False if it is kept already."""

    async def pending(self, *, limit: int, after: UUID | None = None) -> Sequence[ProviderEvent]:
        """Return events that nobody dealt with, by their ids."""

    async def close(self, event_id: UUID, *, at: datetime) -> None:
        """Note that an event was dealt with."""

    async def cursor(self, provider: str) -> datetime | None:
        """Return until when a provider's list was read; None if it never was."""

    async def move_cursor(self, provider: str, *, to: datetime) -> None:
        """Note until when a provider's list was read."""
