"""Whose events came by which key, and which of them were refused afterwards, as entries of the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import UUID

from tritium_platform.audit.model import (
    ActionOutcome,
    AuditIntent,
    ComplianceImpact,
    Detail,
    ResourceIdentifier,
)
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium_platform.adapters.event_codec import SpooledEvent
    from tritium_platform.metering.event_writer import Author
    from tritium_platform.values import Clock

# An entry has at most 65,535 bytes, and an id 200 characters of up to four.
MOST_IDS = 50


class RefusedEvents(NamedTuple):
    """Events of one source that were acknowledged and that the books do not take, by the error's code."""

    tenant_id: UUID
    key_id: str | None
    source: str
    code: str
    events: Sequence[SpooledEvent]


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
        await self._intents.add_all(
            [
                self._intent(
                    uuid7(self._clock),
                    author,
                    action="usage.ingest",
                    outcome=ActionOutcome.SUCCESS,
                    details={"events": count},
                )
                for author, count in accepted.items()
            ]
        )

    async def note_refused(self, refused: Sequence[RefusedEvents]) -> None:
        """Write down which events were acknowledged and are not in the books; their ids stand on lines."""
        intents = []
        for each in refused:
            for start in range(0, len(each.events), MOST_IDS):
                named = each.events[start : start + MOST_IDS]
                ids = "\n".join(one.event.id for one in named)
                intent = self._intent(
                    UUID(bytes=named[0].identity),  # no row has it; and an entry that is there stays alone
                    (each.tenant_id, each.key_id),
                    action="usage.refuse",
                    outcome=ActionOutcome.FAILURE,
                    details={"events": len(named), "source": each.source, "code": each.code, "ids": ids},
                )
                intents.append(intent)
        await self._intents.add_all(intents)

    def _intent(
        self,
        identity: UUID,
        author: Author,
        *,
        action: str,
        outcome: ActionOutcome,
        details: Mapping[str, Detail],
    ) -> AuditIntent:
        tenant_id, key_id = author
        return AuditIntent(
            id=identity,
            event_id=identity,
            occurred_at=self._clock.now(),
            action=action,
            resource_affected=ResourceIdentifier("tenant", str(tenant_id)),
            outcome=outcome,
            tenant_id=tenant_id,
            key_id=key_id,
            compliance_impact=ComplianceImpact.FINANCIAL,
            details=details,
        )
