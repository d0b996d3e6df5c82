"""What security saw and what it blocked: the operator's routes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel

from tritium_platform.api.deps import ThePlatform, admin, admin_key
from tritium_platform.audit.model import ResourceIdentifier
from tritium_platform.changes import Change
from tritium_platform.security.model import SecurityEventType

if TYPE_CHECKING:
    from tritium_platform.security.model import SecurityEvent

router = APIRouter(prefix="/api/v1/security", tags=["security"], dependencies=[admin_key, admin])


class SecurityEventOut(BaseModel):
    """A refusal that may be part of an attack; the key id of a failed authentication is only a claim."""

    id: UUID
    event_type: SecurityEventType
    severity: str
    timestamp: datetime
    source_ip: str | None
    tenant_id: UUID | None
    key_id: str | None
    resource: str | None
    reason: str


class BlockOut(BaseModel):
    """An address (of IPv6: a network) that is refused, but for keys that were accepted from there before."""

    address: str
    until: datetime


@router.get("/events")
async def list_events(
    platform: ThePlatform, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[SecurityEventOut]:
    """List the newest security events, newest first."""
    return [_event_out(event) for event in await platform.security.recent(limit=limit)]


@router.get("/blocks")
async def list_blocks(platform: ThePlatform) -> list[BlockOut]:
    """List the blocked addresses."""
    blocked = platform.security.blocked()
    return [BlockOut(address=address, until=until) for address, until in blocked.items()]


@router.delete("/blocks/{address:path}", status_code=204)
async def delete_block(platform: ThePlatform, address: str) -> None:
    """Take requests from an address again at once."""
    # An address is personal data: the log of everything says only that a block was lifted.
    await platform.gateway.change(
        lambda: platform.security.unblock(address),
        describe=lambda _: Change(action="security.unblock", resource=ResourceIdentifier("block", "source")),
    )


def _event_out(event: SecurityEvent) -> SecurityEventOut:
    return SecurityEventOut(
        id=event.id,
        event_type=event.event_type,
        severity=event.severity.name.lower(),
        timestamp=event.timestamp,
        source_ip=event.source_ip,
        tenant_id=event.tenant_id,
        key_id=event.key_id,
        resource=event.resource,
        reason=event.reason,
    )
