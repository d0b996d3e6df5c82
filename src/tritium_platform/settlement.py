"""How a request ended, in one record: everything that the books have to learn of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

# Not only for types: settlements are read back from a spool, and the fields say as what.
from uuid import UUID  # noqa: TC003

from tritium_platform.audit.model import AuditIntent  # noqa: TC001
from tritium_platform.insight.health import OutcomeKind  # noqa: TC001
from tritium_platform.metering.model import UsageRecord  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """The end of one request.

    Attributes:
        record: what was used.
        intent: what the audit log says of it.
        kind: what it means for the customer's health.
        latency_bucket: how long it took, see `insight.health.latency_bucket`.
        reservation_id: what was reserved for it, or the lease from which it was taken.
        is_leased: whether it is a lease.
        requests: how many requests of the month it counts as; 0 gives back what was reserved.
    """

    record: UsageRecord
    intent: AuditIntent
    kind: OutcomeKind
    latency_bucket: int
    reservation_id: UUID
    is_leased: bool
    requests: int


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
