"""Turns a contradiction in the books into a CRITICAL event of security, and with it into an audit entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tritium_platform.security.model import SecurityEvent, SecurityEventType, ThreatLevel
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.billing.reconciliation.model import Difference
    from tritium_platform.values import Clock

LONGEST_FIGURE = 200


class Recorder(Protocol):
    """Keeps an event, assesses it and acts (security does)."""

    async def record(self, event: SecurityEvent) -> object:
        """Take an event."""


class SecurityAlarm:
    """Tells the operator that the books contradict themselves, each time as an event of its own."""

    def __init__(self, security: Recorder, *, clock: Clock) -> None:
        self._security = security
        self._clock = clock

    async def differs(self, difference: Difference, *, run_id: UUID) -> None:
        """Raise the alarm about one difference."""
        await self._security.record(
            SecurityEvent(
                id=uuid7(self._clock),
                event_type=SecurityEventType.COMPLIANCE_VIOLATION,
                severity=ThreatLevel.CRITICAL,
                timestamp=self._clock.now(),
                tenant_id=difference.tenant_id,
                resource=difference.subject,
                reason=f"books_differ:{difference.check.value}",
                event_data={
                    "run": str(run_id),
                    "month": difference.month,
                    "account": difference.account,
                    "expected": difference.expected[:LONGEST_FIGURE],
                    "found": difference.found[:LONGEST_FIGURE],
                },
            )
        )
