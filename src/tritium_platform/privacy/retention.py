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
from tritium_platform.errors import NotFoundError, ValidationError
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.values import Clock


class DataKind(StrEnum):
    """What is kept."""

    UPLOAD = "upload"
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


# An upload is the raw material of a quantization: after a month nobody comes back for it, and its tenant
# pays for the storage. A year of security events shows slow attacks and seasonal ones.
DEFAULT_RULES: Mapping[DataKind, RetentionRule] = {
    DataKind.UPLOAD: RetentionRule(keep=timedelta(days=30), reason="uploads are kept for 30 days"),
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


class UploadShelf(Protocol):
    """Where uploads lie."""

    async def list_uploads(self) -> Sequence[KeptThing]:
        """Return every upload; those that a job still reads are held."""
        ...

    async def remove(self, tenant_id: UUID, upload_id: UUID) -> None:
        """Delete an upload and give its storage back; NotFoundError if it is gone already."""
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
    uploads: tuple[KeptThing, ...]
    held: tuple[tuple[KeptThing, str], ...]
    security_events: int


class RetentionService:
    """Deletes what is due; a sweep that was interrupted is simply run again."""

    def __init__(
        self,
        *,
        uploads: UploadShelf,
        events: OldEvents,
        trail: AuditTrail,
        clock: Clock,
        rules: Mapping[DataKind, RetentionRule] = DEFAULT_RULES,
    ) -> None:
        self._uploads = uploads
        self._events = events
        self._trail = trail
        self._clock = clock
        self._rules = rules

    async def sweep(self) -> RetentionReport:
        """Delete what is due and put a certificate of destruction into the audit log."""
        report = await self.preview()
        deleted = [upload for upload in report.uploads if await self._delete(upload)]
        oldest = self._clock.now() - self._rules[DataKind.SECURITY_EVENT].keep
        forgotten = await self._events.remove_before(oldest)
        if deleted or forgotten:
            await self._trail.add(self._certificate(deleted, forgotten=forgotten))
        return RetentionReport(
            is_dry_run=False, uploads=tuple(deleted), held=report.held, security_events=forgotten
        )

    async def preview(self) -> RetentionReport:
        """Say what a sweep would delete; the number of security events is not known before."""
        now, rule = self._clock.now(), self._rules[DataKind.UPLOAD]
        due: list[KeptThing] = []
        held: list[tuple[KeptThing, str]] = []
        for upload in await self._uploads.list_uploads():
            decision = decide_retention(upload, rule=rule, now=now)
            if decision.verdict is RetentionVerdict.DELETE:
                due.append(upload)
            elif now >= upload.created_at + rule.keep:
                held.append((upload, decision.reason))
        return RetentionReport(is_dry_run=True, uploads=tuple(due), held=tuple(held), security_events=0)

    async def _delete(self, upload: KeptThing) -> bool:
        if upload.tenant_id is None:
            return False
        try:
            await self._uploads.remove(upload.tenant_id, upload.id)
        except NotFoundError:
            return False  # its tenant was faster
        return True

    def _certificate(self, deleted: list[KeptThing], *, forgotten: int) -> AuditIntent:
        names = "\n".join(sorted(f"{thing.kind} {thing.id}" for thing in deleted))
        return AuditIntent(
            id=uuid7(self._clock),
            event_id=uuid7(self._clock),
            occurred_at=self._clock.now(),
            action="retention.delete",
            resource_affected=ResourceIdentifier("retention", "sweep"),
            outcome=ActionOutcome.SUCCESS,
            compliance_impact=ComplianceImpact.PERSONAL_DATA,
            details={
                "uploads": len(deleted),
                "security_events": forgotten,
                "uploads_sha256": hashlib.sha256(names.encode()).hexdigest(),
            },
        )
