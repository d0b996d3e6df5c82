"""The nouns of security: events, how dangerous they are, and what is done about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta
    from uuid import UUID


class ThreatLevel(IntEnum):
    """How dangerous something is; levels compare."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


class SecurityEventType(StrEnum):
    """What kind of thing happened."""

    AUTHENTICATION_FAILURE = "authentication_failure"
    AUTHORIZATION_VIOLATION = "authorization_violation"
    DATA_ACCESS_ANOMALY = "data_access_anomaly"
    SYSTEM_INTRUSION_ATTEMPT = "system_intrusion_attempt"
    COMPLIANCE_VIOLATION = "compliance_violation"
    RESOURCE_ABUSE_DETECTED = "resource_abuse_detected"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityEvent:
    """One thing that happened and may be part of an attack.

    Attributes:
        severity: what its author thinks of it alone.
        source_ip: where the request came from, if it came from outside.
        tenant_id, key_id: who is known to have done it. A key id of a failed authentication is only a claim.
        resource: what was reached for, e.g. `model:NAME`; never its content.
        reason: the code of the error that was answered.
        event_data: ids, counts and names; never a secret, a prompt or personal data.
    """

    id: UUID
    event_type: SecurityEventType
    severity: ThreatLevel
    timestamp: datetime
    source_ip: str | None = None
    tenant_id: UUID | None = None
    key_id: str | None = None
    resource: str | None = None
    reason: str = ""
    event_data: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleMatch:
    """A rule that fired, with the numbers it used; `explanation` is one sentence for a human."""

    rule_id: str
    level: ThreatLevel
    count: int
    threshold: int
    window: timedelta
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreatAssessment:
    """How dangerous an event is, together with what came before it, and why."""

    level: ThreatLevel
    matches: tuple[RuleMatch, ...] = ()


class ActionKind(StrEnum):
    """What can be done at once."""

    RECORD = "record"
    NOTIFY_OPERATOR = "notify_operator"
    BLOCK_SOURCE = "block_source"
    REVOKE_KEY = "revoke_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseAction:
    """One thing to do; `target` is an address for a block, a key id for a revocation, else empty."""

    kind: ActionKind
    reason: str
    target: str = ""
    duration: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityResponse:
    """What was decided about an event, and which of it was done (a failed action is in `failed`)."""

    event_id: UUID
    level: ThreatLevel
    done: tuple[ResponseAction, ...]
    failed: tuple[ResponseAction, ...] = ()
