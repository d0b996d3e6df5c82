"""Why a line says what it says: the uses behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium_platform.billing.projection import uses_of
from tritium_platform.billing.rating.rate import charge_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tritium_platform.billing.rating.plan import LineKey, Plan
    from tritium_platform.metering.model import UsageRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class LineEvent:
    """A use that a line charges, and how much of it."""

    usage_id: UUID
    source: str
    event_id: str
    occurred_at: str
    quantity: int


def events_of(records: Sequence[UsageRecord], *, plan: Plan, key: LineKey) -> list[LineEvent]:
    """Return what one line of a plan counts of some records."""
    return [
        LineEvent(
            usage_id=record.id,
            source=record.source,
            event_id=record.event_id,
            occurred_at=record.occurred_at.isoformat(),
            quantity=use.quantity,
        )
        for record in records
        for use in uses_of(record)
        if charge_of(plan, use) == key
    ]
