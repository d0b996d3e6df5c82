"""What is done about a threat: decided by a pure function, carried out through a port, each step undoable.

A key is never revoked because of failed authentications: whoever knows a key's public id could lock its
owner out. Only what a key did after it was accepted counts against it. The machine's own address is never
blocked: behind it is the operator, or a proxy that does not say for whom it asks.
"""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

from tritium_platform.errors import BitNetServiceError
from tritium_platform.security.model import (
    ActionKind,
    ResponseAction,
    SecurityEventType,
    SecurityResponse,
    ThreatLevel,
)

if TYPE_CHECKING:
    from uuid import UUID

    from tritium_platform.security.model import SecurityEvent, ThreatAssessment

BLOCK_DURATION = timedelta(minutes=15)


class Containment(Protocol):
    """Carries out what was decided."""

    async def block_source(self, address: str, *, duration: timedelta) -> None:
        """Refuse requests from an address for a while."""
        ...

    async def revoke_key(self, key_id: str, *, tenant_id: UUID) -> None:
        """Make a key invalid; NotFoundError if there is none."""
        ...

    async def notify_operator(self, level: ThreatLevel, *, text: str) -> None:
        """Tell a human."""
        ...


def plan_response(event: SecurityEvent, *, assessment: ThreatAssessment) -> tuple[ResponseAction, ...]:
    """Decide what to do: LOW is recorded, MEDIUM told, HIGH blocked, CRITICAL contained."""
    reason = "; ".join(match.explanation for match in assessment.matches) or event.reason
    actions = [ResponseAction(kind=ActionKind.RECORD, reason=reason)]
    if assessment.level >= ThreatLevel.MEDIUM:
        actions.append(ResponseAction(kind=ActionKind.NOTIFY_OPERATOR, reason=reason))
    is_claim = event.event_type is SecurityEventType.AUTHENTICATION_FAILURE
    source = event.source_ip
    if assessment.level >= ThreatLevel.HIGH and is_claim and source and not is_own_machine(source):
        actions.append(
            ResponseAction(
                kind=ActionKind.BLOCK_SOURCE, reason=reason, target=source, duration=BLOCK_DURATION
            )
        )
    if assessment.level >= ThreatLevel.CRITICAL and not is_claim and event.key_id and event.tenant_id:
        actions.append(ResponseAction(kind=ActionKind.REVOKE_KEY, reason=reason, target=event.key_id))
    return tuple(actions)


def is_own_machine(address: str) -> bool:
    """Tell whether an address is a loopback address; False for what is no address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return parsed.is_loopback


async def execute_incident_response(
    event: SecurityEvent, *, assessment: ThreatAssessment, containment: Containment
) -> SecurityResponse:
    """Do what the plan says, all of it even if a part fails; say what was done and what failed."""
    done, failed = list[ResponseAction](), list[ResponseAction]()
    for action in plan_response(event, assessment=assessment):
        try:
            await _carry_out(action, event, assessment=assessment, containment=containment)
        except BitNetServiceError:
            failed.append(action)
        else:
            done.append(action)
    return SecurityResponse(event_id=event.id, level=assessment.level, done=tuple(done), failed=tuple(failed))


async def _carry_out(
    action: ResponseAction, event: SecurityEvent, *, assessment: ThreatAssessment, containment: Containment
) -> None:
    match action.kind:
        case ActionKind.BLOCK_SOURCE:
            await containment.block_source(action.target, duration=action.duration or BLOCK_DURATION)
        case ActionKind.REVOKE_KEY if event.tenant_id is not None:
            await containment.revoke_key(action.target, tenant_id=event.tenant_id)
        case ActionKind.NOTIFY_OPERATOR:
            await containment.notify_operator(assessment.level, text=action.reason)
        case _:
            pass  # RECORD: the event itself is kept before anything is analyzed
