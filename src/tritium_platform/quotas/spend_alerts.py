"""Tells once a month how much of a cap is spent, and keeps what happened to it in the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog

from tritium_platform.audit.model import ActionOutcome, AuditIntent, ComplianceImpact, ResourceIdentifier
from tritium_platform.quotas.spend_cap import THRESHOLDS
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.quotas.spend_cap import SpendCap, SpendStore
    from tritium_platform.values import Clock

_log = structlog.get_logger(__name__)


class AuditTrail(Protocol):
    """Takes intents for the audit log (its outbox does)."""

    async def add(self, intent: AuditIntent) -> None:
        """Keep an intent until it is logged."""


class SpendAlerts:
    """Marks what happened to caps, and raises an alert the first time in a month."""

    def __init__(self, *, store: SpendStore, trail: AuditTrail, clock: Clock) -> None:
        self._store = store
        self._trail = trail
        self._clock = clock

    async def raise_reached(self, cap: SpendCap, *, used: int, period: str) -> Sequence[int]:
        """Raise the alerts that what is used has reached, each once a month; return their thresholds."""
        reached = [each for each in THRESHOLDS if used * 100 >= cap.amount * each]
        marks = await self._store.marks(cap.tenant_id, period=period) if reached else ()
        raised = {mark.name for mark in marks}
        for threshold in reached:
            if str(threshold) not in raised:
                await self.alert(cap, threshold=threshold, period=period)
        return reached

    async def alert(self, cap: SpendCap, *, threshold: int, period: str) -> None:
        """Raise one alert, once a month."""
        if await self.mark(cap, str(threshold), period=period):
            await self.note("spend.alert", cap, amount=str(cap.amount_minor), threshold=threshold)
            _log.warning("spend_alert", tenant_id=str(cap.tenant_id), threshold=threshold)

    async def mark(self, cap: SpendCap, name: str, *, period: str) -> bool:
        """Note that something happened; True the first time in a month."""
        return await self._store.mark(cap.tenant_id, period=period, name=name, at=self._clock.now())

    async def note(self, action: str, cap: SpendCap, **details: str | int) -> None:
        """Write down what was done with a cap, in the transaction that does it."""
        identity = uuid7(self._clock)
        await self._trail.add(
            AuditIntent(
                id=identity,
                event_id=identity,
                occurred_at=self._clock.now(),
                action=action,
                resource_affected=ResourceIdentifier("tenant", str(cap.tenant_id)),
                outcome=ActionOutcome.SUCCESS,
                tenant_id=cap.tenant_id,
                compliance_impact=ComplianceImpact.FINANCIAL,
                details={"currency": cap.currency, **details},
            )
        )
