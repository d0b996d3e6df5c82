"""A spend cap and its month as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel

from tritium_platform.quotas.spend_cap import MICRO, SpendMode
from tritium_platform.values import CalendarMonth, Money

if TYPE_CHECKING:
    from tritium_platform.quotas.spend_cap import SpendStatus


class SpendAlertOut(BaseModel):
    """A threshold in percent that the month has reached, and when."""

    threshold: int
    reached_at: datetime


class SpendCapOut(BaseModel):
    """A cap and its month; used and held are minor units rounded up, remaining is rounded down."""

    tenant_id: UUID
    period: str
    mode: SpendMode
    currency: str
    limit_minor: int
    used_minor: int
    held_minor: int
    remaining_minor: int
    limit: str
    remaining: str
    resets_at: datetime
    alerts: list[SpendAlertOut]
    would_refuse: int


def spend_cap_out(status: SpendStatus) -> SpendCapOut:
    """Spell a cap and its month as JSON."""
    cap, counter = status.cap, status.counter
    remaining = max(0, counter.remaining) // MICRO
    return SpendCapOut(
        tenant_id=cap.tenant_id,
        period=status.period,
        mode=cap.mode,
        currency=cap.currency,
        limit_minor=cap.amount_minor,
        used_minor=-(-counter.used // MICRO),
        held_minor=-(-counter.held // MICRO),
        remaining_minor=remaining,
        limit=str(Money(cap.amount_minor, cap.currency)),
        remaining=str(Money(remaining, cap.currency)),
        resets_at=CalendarMonth.parse(status.period).end,
        alerts=[SpendAlertOut(threshold=threshold, reached_at=at) for threshold, at in status.alerts.items()],
        would_refuse=status.would_refuse,
    )
