"""analyze_security_threat: deterministic rules over an event and what came before it, each with its numbers.

The same event and the same past give the same assessment. The level is the highest of the event's own
severity and of the rules that fire.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from tritium_platform.security.model import RuleMatch, SecurityEventType, ThreatAssessment, ThreatLevel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tritium_platform.security.model import SecurityEvent

# How far back `analyze_security_threat` needs to see.
LONGEST_WINDOW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Rule:
    """Fires when, for one subject, events of a type reach a threshold within a window.

    Attributes:
        subject: whom the count is about; None leaves the event out.
        counted: what is counted; equal values count once (None: every event counts).
        explanation: a sentence with {subject}, {count} and {minutes}.
    """

    id: str
    level: ThreatLevel
    event_type: SecurityEventType
    threshold: int
    window: timedelta
    subject: Callable[[SecurityEvent], str | None]
    counted: Callable[[SecurityEvent], str | None] | None
    explanation: str


def _address(event: SecurityEvent) -> str | None:
    return event.source_ip


def _key(event: SecurityEvent) -> str | None:
    return event.key_id


def _resource(event: SecurityEvent) -> str | None:
    return event.resource


def _tenant(event: SecurityEvent) -> str | None:
    return str(event.tenant_id) if event.tenant_id else None


# A person who mistypes a key or has an old one in a script fails a few times a minute, with one key. The
# thresholds are above that and far below what guessing needs; they are policy, not measurement.
RULES: tuple[Rule, ...] = (
    Rule(
        id="authentication-burst-address",
        level=ThreatLevel.HIGH,
        event_type=SecurityEventType.AUTHENTICATION_FAILURE,
        threshold=20,
        window=timedelta(minutes=5),
        subject=_address,
        counted=None,
        explanation="{count} failed authentications from {subject} within {minutes} minutes",
    ),
    Rule(
        id="authentication-burst-key",
        level=ThreatLevel.MEDIUM,
        event_type=SecurityEventType.AUTHENTICATION_FAILURE,
        threshold=10,
        window=timedelta(minutes=5),
        subject=_key,
        counted=None,
        explanation="{count} failed authentications that name key {subject} within {minutes} minutes",
    ),
    Rule(
        id="authentication-spraying",
        level=ThreatLevel.HIGH,
        event_type=SecurityEventType.AUTHENTICATION_FAILURE,
        threshold=8,
        window=timedelta(minutes=5),
        subject=_address,
        counted=_key,
        explanation="{count} different keys failed from {subject} within {minutes} minutes",
    ),
    Rule(
        id="cross-tenant-probing",
        level=ThreatLevel.HIGH,
        event_type=SecurityEventType.AUTHORIZATION_VIOLATION,
        threshold=20,
        window=timedelta(minutes=10),
        subject=_key,
        counted=_resource,
        explanation="key {subject} reached for {count} things that are not its own within {minutes} minutes",
    ),
    Rule(
        id="cross-tenant-enumeration",
        level=ThreatLevel.CRITICAL,
        event_type=SecurityEventType.AUTHORIZATION_VIOLATION,
        threshold=200,
        window=timedelta(minutes=10),
        subject=_key,
        counted=_resource,
        explanation="key {subject} tried {count} things that are not its own within {minutes} minutes",
    ),
    Rule(
        id="malicious-model-file",
        level=ThreatLevel.MEDIUM,
        event_type=SecurityEventType.SYSTEM_INTRUSION_ATTEMPT,
        threshold=1,
        window=LONGEST_WINDOW,
        subject=_tenant,
        counted=None,
        explanation="tenant {subject} sent {count} files that attack their reader within {minutes} minutes",
    ),
    Rule(
        id="malicious-model-files-repeated",
        level=ThreatLevel.CRITICAL,
        event_type=SecurityEventType.SYSTEM_INTRUSION_ATTEMPT,
        threshold=5,
        window=LONGEST_WINDOW,
        subject=_tenant,
        counted=None,
        explanation="tenant {subject} sent {count} files that attack their reader within {minutes} minutes",
    ),
)


def analyze_security_threat(event: SecurityEvent, *, past: Sequence[SecurityEvent]) -> ThreatAssessment:
    """Assess an event in the light of the events before it (any order; LONGEST_WINDOW of them is enough)."""
    matches = tuple(match for rule in RULES if (match := _apply(rule, event, past)) is not None)
    level = max([event.severity, *(match.level for match in matches)])
    return ThreatAssessment(level=level, matches=matches)


def _apply(rule: Rule, event: SecurityEvent, past: Sequence[SecurityEvent]) -> RuleMatch | None:
    subject = rule.subject(event)
    if event.event_type is not rule.event_type or subject is None:
        return None
    earliest = event.timestamp - rule.window
    same = [
        other
        for other in past
        if other.id != event.id
        and other.event_type is rule.event_type
        and rule.subject(other) == subject
        and earliest < other.timestamp <= event.timestamp
    ]
    counted = rule.counted
    count = len(same) + 1 if counted is None else len({counted(each) for each in [*same, event]} - {None})
    if count < rule.threshold:
        return None
    minutes = int(rule.window.total_seconds() // 60)
    return RuleMatch(
        rule_id=rule.id,
        level=rule.level,
        count=count,
        threshold=rule.threshold,
        window=rule.window,
        explanation=rule.explanation.format(subject=subject, count=count, minutes=minutes),
    )
