"""Prepaid credit: which grants pay for an invoice, in which order, until when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """What is left of one grant.

    Attributes:
        id: names the grant; an earlier one goes first where all else is the same.
        remaining: minor units.
        priority: smaller goes first.
        expires_at: from then on it pays for nothing; None: never, and after those that expire.
    """

    id: UUID
    remaining: int
    priority: int = 0
    expires_at: datetime | None = None

    def is_good(self, at: datetime) -> bool:
        """Return whether it can pay at an instant."""
        return self.expires_at is None or at < self.expires_at


def draw_credits(due: int, *, grants: Sequence[Credit], at: datetime) -> list[tuple[UUID, int]]:
    """Return what each grant pays of `due` minor units, in the order in which they are used up.

    The order is priority, then what expires first, then what never does, then the id.
    """
    drawn: list[tuple[UUID, int]] = []
    for grant in sorted((each for each in grants if each.is_good(at)), key=_order):
        paid = min(due, grant.remaining)
        if paid > 0:
            drawn.append((grant.id, paid))
            due -= paid
    return drawn


def _order(grant: Credit) -> tuple[int, bool, datetime, int]:
    return grant.priority, grant.expires_at is None, grant.expires_at or NEVER, grant.id.int
