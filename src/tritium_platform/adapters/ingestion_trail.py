"""Whose events came by which key, as entries of the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tritium_platform.audit.model import ActionOutcome, AuditIntent, ComplianceImpact, ResourceIdentifier
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium_platform.metering.ingestion import Author
    from tritium_platform.values import Clock


class IntentStore(Protocol):
    """Keeps audit intents until the log has them."""

    async def add_all(self, intents: Sequence[AuditIntent]) -> None:
        """Keep several; those that are kept already change nothing."""


class AuditedIngestion:
    """Puts one intent per tenant, key and group into the outbox."""

    def __init__(self, *, intents: IntentStore, clock: Clock) -> None:
        self._intents = intents
        self._clock = clock

    async def note(self, accepted: Mapping[Author, int]) -> None:
        """Write down how many events of each tenant each key added."""
        intents = []
        for (tenant_id, key_id), count in accepted.items():
            identity = uuid7(self._clock)
            intents.append(
                AuditIntent(
                    id=identity,
                    event_id=identity,
                    occurred_at=self._clock.now(),
                    action="usage.ingest",
                    resource_affected=ResourceIdentifier("tenant", str(tenant_id)),
                    outcome=ActionOutcome.SUCCESS,
                    tenant_id=tenant_id,
                    key_id=key_id,
                    compliance_impact=ComplianceImpact.FINANCIAL,
                    details={"events": count},
                )
            )
        await self._intents.add_all(intents)
