"""Keeps security events, assesses each, and contains what is dangerous; every containment is audited."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from tritium_platform.audit.model import ActionOutcome, AuditIntent, ComplianceImpact, ResourceIdentifier
from tritium_platform.errors import (
    AuthenticationError,
    InsufficientPermissionsError,
    NotFoundError,
    RateLimitExceededError,
    SourceBlockedError,
    TenantSuspendedError,
)
from tritium_platform.security.model import (
    ActionKind,
    SecurityEvent,
    SecurityEventType,
    SecurityResponse,
    ThreatLevel,
)
from tritium_platform.security.response import execute_incident_response
from tritium_platform.security.threats import LONGEST_WINDOW, analyze_security_threat
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from tritium_platform.errors import BitNetServiceError
    from tritium_platform.tenancy.service import TenancyService
    from tritium_platform.values import Clock

logger = logging.getLogger(__name__)
MAX_BLOCKED = 10_000
MAX_PAST = 2_000
MAX_FAMILIAR = 100_000


class SecurityEventStore(Protocol):
    """Keeps security events."""

    async def add(self, event: SecurityEvent) -> None:
        """Keep an event."""
        ...

    async def related(self, event: SecurityEvent, *, since: datetime, limit: int) -> Sequence[SecurityEvent]:
        """Return events of the same type since then that share address, key or tenant; newest first."""
        ...

    async def recent(self, *, limit: int) -> Sequence[SecurityEvent]:
        """Return the newest events of all types, newest first."""
        ...

    async def remove_before(self, moment: datetime) -> int:
        """Forget what is older; return how many."""
        ...


class AuditTrail(Protocol):
    """Takes intents for the audit log (its outbox does)."""

    async def add(self, intent: AuditIntent) -> None:
        """Keep an intent until it is logged."""
        ...


class LocalContainment:
    """Contains on this machine: a list of blocked addresses, the tenants' keys, and the operator's log."""

    def __init__(self, *, tenancy: TenancyService, clock: Clock) -> None:
        self._tenancy = tenancy
        self._clock = clock
        self._blocked: dict[str, datetime] = {}

    def is_blocked(self, address: str | None) -> bool:
        """Tell whether requests from an address are refused at the moment."""
        return self.blocked_seconds(address) > 0

    def blocked_seconds(self, address: str | None) -> int:
        """Return for how many whole seconds an address is still refused; 0 if it is not."""
        until = self._blocked.get(address or "")
        return math.ceil(max(0.0, (until - self._clock.now()).total_seconds())) if until else 0

    def blocked(self) -> dict[str, datetime]:
        """Return the addresses that are refused at the moment, and until when."""
        now = self._clock.now()
        return {address: until for address, until in self._blocked.items() if until > now}

    async def block_source(self, address: str, *, duration: timedelta) -> None:
        """Refuse an address for a while; only the newest MAX_BLOCKED addresses are kept."""
        self._blocked.pop(address, None)
        while len(self._blocked) >= MAX_BLOCKED:
            self._blocked.pop(next(iter(self._blocked)))
        self._blocked[address] = self._clock.now() + duration

    async def unblock_source(self, address: str) -> None:
        """Take requests from an address again."""
        self._blocked.pop(address, None)

    async def revoke_key(self, key_id: str, *, tenant_id: UUID) -> None:
        """Revoke an API key at once."""
        await self._tenancy.revoke_key(key_id, tenant_id=tenant_id)

    async def notify_operator(self, level: ThreatLevel, *, text: str) -> None:
        """Write a line that the operator's alerting can match."""
        logger.warning("security threat %s: %s", level.name, text)


class SecurityService:
    """Takes what may be an attack; see `observe_refusal` for the usual source."""

    def __init__(
        self, *, store: SecurityEventStore, trail: AuditTrail, containment: LocalContainment, clock: Clock
    ) -> None:
        self._store = store
        self._trail = trail
        self._containment = containment
        self._clock = clock
        self._familiar: OrderedDict[tuple[str, str], None] = OrderedDict()

    def is_blocked(self, source_ip: str | None) -> bool:
        """Tell whether requests from an address are refused at the moment."""
        return self._containment.is_blocked(source_ip)

    def check_source(
        self, source_ip: str | None, *, claimed_key_id: str | None, is_suspect: bool = False
    ) -> None:
        """Refuse an address that is blocked or suspect, but not a key that was accepted from there before.

        Many may share an address with an attacker. Whoever was at work there goes on; a key id that is only
        claimed gains nothing, for its secret is still checked. Suspect is an address of which more is to be
        judged than mistakes would make.

        Raises:
            SourceBlockedError: the address is refused; `retry_after` says for how long.
        """
        seconds = self._containment.blocked_seconds(source_ip) or int(is_suspect)
        if seconds and (source_ip or "", claimed_key_id or "") not in self._familiar:
            raise SourceBlockedError(retry_after=seconds)

    def note_accepted(self, source_ip: str | None, *, key_id: str) -> None:
        """Remember that a key was accepted from an address (the newest MAX_FAMILIAR pairs)."""
        pair = (source_ip or "", key_id)
        self._familiar[pair] = None
        self._familiar.move_to_end(pair)
        if len(self._familiar) > MAX_FAMILIAR:
            self._familiar.popitem(last=False)

    def blocked(self) -> dict[str, datetime]:
        """Return the addresses that are refused at the moment, and until when."""
        return self._containment.blocked()

    async def unblock(self, address: str) -> None:
        """Take requests from an address again; NotFoundError if it is not blocked."""
        if not self._containment.is_blocked(address):
            raise NotFoundError("This address is not blocked.")
        await self._containment.unblock_source(address)

    async def observe_refusal(
        self,
        error: BitNetServiceError,
        *,
        source_ip: str | None = None,
        tenant_id: UUID | None = None,
        key_id: str | None = None,
        resource: str | None = None,
    ) -> SecurityResponse | None:
        """Judge a request that was answered with an error; None if such an error is nobody's attack."""
        event_type = classify_refusal(error)
        if event_type is None:
            return None
        claimed = error.details.get("key_id")
        event = SecurityEvent(
            id=uuid7(self._clock),
            event_type=event_type,
            severity=ThreatLevel.LOW,
            timestamp=self._clock.now(),
            source_ip=source_ip,
            tenant_id=tenant_id,
            key_id=key_id or (str(claimed) if claimed else None),
            resource=resource,
            reason=str(error.details.get("threat") or error.code),
        )
        return await self.record(event)

    async def record(self, event: SecurityEvent) -> SecurityResponse:
        """Keep an event, assess it with what came before, and act."""
        event = replace(event, resource=event.resource[:200] if event.resource else None)
        past = await self._store.related(event, since=event.timestamp - LONGEST_WINDOW, limit=MAX_PAST)
        await self._store.add(event)
        assessment = analyze_security_threat(event, past=past)
        response = await execute_incident_response(
            event, assessment=assessment, containment=self._containment
        )
        rules = [match.rule_id for match in assessment.matches]
        await self._trail.add(self._intent(event, response, rules=rules))
        return response

    async def recent(self, *, limit: int = 50) -> Sequence[SecurityEvent]:
        """Return the newest events."""
        return await self._store.recent(limit=limit)

    def _intent(self, event: SecurityEvent, response: SecurityResponse, *, rules: list[str]) -> AuditIntent:
        has_acted = any(action.kind is not ActionKind.RECORD for action in response.done + response.failed)
        return AuditIntent(
            id=uuid7(self._clock),
            event_id=event.id,
            occurred_at=self._clock.now(),
            action="security.respond" if has_acted else "security.observe",
            resource_affected=ResourceIdentifier("security_event", str(event.id)),
            outcome=ActionOutcome.FAILURE if response.failed else ActionOutcome.SUCCESS,
            tenant_id=event.tenant_id,
            key_id=event.key_id,
            compliance_impact=ComplianceImpact.SECURITY,
            details={
                "event_type": event.event_type.value,
                "level": response.level.name.lower(),
                "rules": ",".join(rules),
                "done": ",".join(action.kind.value for action in response.done),
                "failed": ",".join(action.kind.value for action in response.failed),
            },
        )


def classify_refusal(error: BitNetServiceError) -> SecurityEventType | None:
    """Say what kind of attack an error may be part of; None for the errors of everyday.

    An error about an input that attacks its reader (a path that escapes, a size that lies) says so with a
    detail named `threat`.
    """
    if error.details.get("threat"):
        return SecurityEventType.SYSTEM_INTRUSION_ATTEMPT
    if isinstance(error, AuthenticationError):
        return SecurityEventType.AUTHENTICATION_FAILURE
    if isinstance(error, (InsufficientPermissionsError, TenantSuspendedError, NotFoundError)):
        return SecurityEventType.AUTHORIZATION_VIOLATION
    if isinstance(error, RateLimitExceededError):
        return SecurityEventType.RESOURCE_ABUSE_DETECTED
    return None
