"""How long things are kept: a pure decision, and the sweep that carries it out and certifies what it deleted.

What outranks what: a legal hold, then a statutory period, then the policy's own period.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from tritium_platform.audit.model import ActionOutcome, AuditIntent, ComplianceImpact, ResourceIdentifier
from tritium_platform.errors import ConflictError, NotFoundError, ValidationError
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.values import Clock


class DataKind(StrEnum):
    """What is kept."""

    UPLOAD = "upload"
    BATCH_FILE = "batch_file"
    SECURITY_EVENT = "security_event"


class RetentionVerdict(StrEnum):
    """What to do with a thing."""

    KEEP = "keep"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRule:
    """How long a kind of thing is kept after it was made, and the reason why."""

    keep: timedelta
    reason: str

    def __post_init__(self) -> None:
        if self.keep <= timedelta(0):
            raise ValidationError("A retention period must be longer than nothing.")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptThing:
    """One thing that may be due; `held_because` names what forbids it (a legal hold, a running job)."""

    kind: DataKind
    id: UUID
    tenant_id: UUID | None
    created_at: datetime
    statutory_until: datetime | None = None
    held_because: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionDecision:
    """What to do with a thing, and why."""

    verdict: RetentionVerdict
    reason: str


# An upload is the raw material of a quantization, a file that of a batch or its result: after a month nobody
# comes back for it, and its tenant pays for the storage. A year of security events shows slow attacks and
# seasonal ones.
DEFAULT_RULES: Mapping[DataKind, RetentionRule] = {
    DataKind.UPLOAD: RetentionRule(keep=timedelta(days=30), reason="uploads are kept for 30 days"),
    DataKind.BATCH_FILE: RetentionRule(
        keep=timedelta(days=30), reason="files of batches are kept for 30 days"
    ),
    DataKind.SECURITY_EVENT: RetentionRule(
        keep=timedelta(days=365), reason="security events are kept for a year"
    ),
}


def decide_retention(thing: KeptThing, *, rule: RetentionRule, now: datetime) -> RetentionDecision:
    """Decide whether a thing is to be deleted now."""
    if thing.held_because is not None:
        return RetentionDecision(verdict=RetentionVerdict.KEEP, reason=thing.held_because)
    if thing.statutory_until is not None and now < thing.statutory_until:
        reason = f"the law wants it kept until {thing.statutory_until.isoformat()}"
        return RetentionDecision(verdict=RetentionVerdict.KEEP, reason=reason)
    verdict = RetentionVerdict.KEEP if now < thing.created_at + rule.keep else RetentionVerdict.DELETE
    return RetentionDecision(verdict=verdict, reason=rule.reason)


class Shelf(Protocol):
    """Where things of tenants lie."""

    async def list_kept(self) -> Sequence[KeptThing]:
        """Return everything; what a job still reads is held."""
        ...

    async def remove(self, tenant_id: UUID, thing_id: UUID) -> None:
        """Delete a thing and give its storage back; NotFoundError if it is gone, ConflictError if read."""
        ...


class OldEvents(Protocol):
    """Security events that can be forgotten by age."""

    async def remove_before(self, moment: datetime) -> int:
        """Forget what is older; return how many."""
        ...


class AuditTrail(Protocol):
    """Takes intents for the audit log (its outbox does)."""

    async def add(self, intent: AuditIntent) -> None:
        """Keep an intent until it is logged."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionReport:
    """What a sweep deleted, or would delete if `is_dry_run`, and what it left although it was due."""

    is_dry_run: bool
    due: tuple[KeptThing, ...]
    held: tuple[tuple[KeptThing, str], ...]
    security_events: int

    def of(self, kind: DataKind) -> tuple[KeptThing, ...]:
        """Return what was deleted, or is due, of a kind."""
        return tuple(thing for thing in self.due if thing.kind is kind)


class RetentionService:
    """Deletes what is due; a sweep that was interrupted is simply run again."""

    def __init__(
        self,
        *,
        shelves: Mapping[DataKind, Shelf],
        events: OldEvents,
        trail: AuditTrail,
        clock: Clock,
        rules: Mapping[DataKind, RetentionRule] = DEFAULT_RULES,
    ) -> None:
        self._shelves = shelves
        self._events = events
        self._trail = trail
        self._clock = clock
        self._rules = rules

    async def sweep(self) -> RetentionReport:
        """Delete what is due and put a certificate of destruction into the audit log."""
        report = await self.preview()
        deleted = [thing for thing in report.due if await self._delete(thing)]
        oldest = self._clock.now() - self._rules[DataKind.SECURITY_EVENT].keep
        forgotten = await self._events.remove_before(oldest)
        if deleted or forgotten:
            await self._trail.add(self._certificate(deleted, forgotten=forgotten))
        return RetentionReport(
            is_dry_run=False, due=tuple(deleted), held=report.held, security_events=forgotten
        )

    async def preview(self) -> RetentionReport:
        """Say what a sweep would delete; the number of security events is not known before."""
        now = self._clock.now()
        due: list[KeptThing] = []
        held: list[tuple[KeptThing, str]] = []
        for kind, shelf in self._shelves.items():
            rule = self._rules[kind]
            for thing in await shelf.list_kept():
                decision = decide_retention(thing, rule=rule, now=now)
                if decision.verdict is RetentionVerdict.DELETE:
                    due.append(thing)
                elif now >= thing.created_at + rule.keep:
                    held.append((thing, decision.reason))
        return RetentionReport(is_dry_run=True, due=tuple(due), held=tuple(held), security_events=0)

    async def _delete(self, thing: KeptThing) -> bool:
        if thing.tenant_id is None:
            return False
        try:
            await self._shelves[thing.kind].remove(thing.tenant_id, thing.id)
        except (NotFoundError, ConflictError):
            return False  # its tenant was faster: it is gone, or something has begun to read it
        return True

    def _certificate(self, deleted: list[KeptThing], *, forgotten: int) -> AuditIntent:
        counts: dict[str, str | int | bool | None] = {}
        for kind in self._shelves:
            names = sorted(f"{thing.kind} {thing.id}" for thing in deleted if thing.kind is kind)
            counts[f"{kind}s"] = len(names)
            counts[f"{kind}s_sha256"] = hashlib.sha256("\n".join(names).encode()).hexdigest()
        return AuditIntent(
            id=uuid7(self._clock),
            event_id=uuid7(self._clock),
            occurred_at=self._clock.now(),
            action="retention.delete",
            resource_affected=ResourceIdentifier("retention", "sweep"),
            outcome=ActionOutcome.SUCCESS,
            compliance_impact=ComplianceImpact.PERSONAL_DATA,
            details={**counts, "security_events": forgotten},
        )
