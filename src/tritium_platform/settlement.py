"""How a request ended, in one record: everything that the books have to learn of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import msgspec

from tritium_platform.audit.model import MAX_EXACT_INTEGER, ActionOutcome, AuditIntent, ResourceIdentifier
from tritium_platform.insight.health import OutcomeKind
from tritium_platform.metering.model import UsageRecord
from tritium_platform.serving.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

# So many ASCII characters of all texts together fit into a line of the audit log, however JSON writes them.
PLAINLY_SHORT = 4096


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """The end of one request: a usage record, and what a line of the audit log says beyond it.

    Attributes:
        record: what was used.
        event_id: ties together the lines of one request.
        subject: what it was about.
        request_id: how the client knows it.
        cost: its price in minor units.
        code: of the error that ended it.
        kind: what it means for the customer's health.
        latency_bucket: how long it took, see `insight.health.latency_bucket`.
        reservation_id: what was reserved for it, or the lease from which it was taken.
        is_leased: whether it is a lease.
        requests: how many requests of the month it counts as; 0 gives back what was reserved.
    """

    record: UsageRecord
    event_id: UUID
    subject: ResourceIdentifier
    request_id: str
    cost: str
    code: str | None
    kind: OutcomeKind
    latency_bucket: int
    reservation_id: UUID
    is_leased: bool
    requests: int

    def __post_init__(self) -> None:
        """Refuse what the audit log could not say: nobody could bring it into the books later.

        Raises:
            ValidationError: a text that is too long or no text, or a quantity beyond 2^53.
        """
        if not self._is_plain():
            self.intent()

    def _is_plain(self) -> bool:
        """Tell what can be seen without writing the line: short texts in ASCII, and exact numbers."""
        record, quantities = self.record, self.record.quantities
        texts = (
            f"{self.subject.kind}{self.subject.id}{self.request_id}{self.cost}{self.code}"
            f"{record.outcome}{record.model}{record.key_id}"
        )
        return (
            texts.isascii()
            and len(texts) <= PLAINLY_SHORT
            and quantities.input_tokens <= MAX_EXACT_INTEGER
            and quantities.output_tokens <= MAX_EXACT_INTEGER
            and quantities.embedding_tokens <= MAX_EXACT_INTEGER
            and record.resources.compute_time_ms <= MAX_EXACT_INTEGER
        )

    def intent(self) -> AuditIntent:
        """Return what the audit log says of it."""
        record = self.record
        is_failed = record.outcome == Outcome.FAILED.value
        return AuditIntent(
            id=record.id,
            event_id=self.event_id,
            occurred_at=record.occurred_at,
            action=f"{record.operation.value}.{'fail' if is_failed else 'complete'}",
            resource_affected=self.subject,
            outcome=ActionOutcome.FAILURE if is_failed else ActionOutcome.SUCCESS,
            tenant_id=record.tenant_id,
            key_id=record.key_id,
            details={
                "request_id": self.request_id,
                "ended": record.outcome,
                "model": record.model,
                "input_tokens": record.quantities.input_tokens,
                "output_tokens": record.quantities.output_tokens,
                "embedding_tokens": record.quantities.embedding_tokens,
                "compute_ms": record.resources.compute_time_ms,
                "cost": self.cost,
                "code": self.code,
            },
        )


class SettlementJournal(Protocol):
    """Takes settlements durably, and brings each into the books exactly once, soon."""

    def require_room(self) -> None:
        """Raise OverloadedError if so much waits to be brought into the books that nothing may be added."""

    async def append(self, settlement: Settlement) -> None:
        """Keep a settlement; when this returns, no crash loses it. PlatformError if it cannot be kept."""

    async def drained(self) -> None:
        """Wait until everything that was appended is in the books; OverloadedError if that takes too long."""

    async def close(self) -> None:
        """Bring everything into the books and end; safe to call twice."""


class SettlementStore(Protocol):
    """Brings settlements into the books, each once."""

    async def position(self, spool_id: UUID) -> int:
        """Return up to where a spool is in the books; 0 for one that never was."""

    async def apply(self, settlements: Sequence[Settlement], *, spool_id: UUID, position: int) -> None:
        """Bring settlements into the books together with the position behind them.

        Nothing happens if the books are at that position already, or further.
        """

    async def forget(self, spool_id: UUID) -> None:
        """Forget the position of a spool that is gone."""
