"""What one line of the audit log says, before (`AuditIntent`) and after (`AuditLogEntry`) it has its place.

A leaf of the log is the RFC 8785 canonical JSON of an `AuditLogEntry`. Entry bundles prefix each leaf with a
16-bit length, so a leaf is at most 65,535 bytes: a bigger payload goes in by its digest (`payload_digest`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import rfc8785

from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LEAF_BYTES = 65_535
# What sequencing adds to an intent: tenant_seq, timestamp, signature and their names.
SEQUENCING_BYTES = 512
MAX_EXACT_INTEGER = 2**53 - 1
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
ACTION = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")

_encode_sorted = msgspec.json.Encoder(order="sorted").encode

Detail = str | int | bool | None


class ActionOutcome(StrEnum):
    """How the action ended."""

    SUCCESS = "success"
    DENIED = "denied"
    FAILURE = "failure"


class ComplianceImpact(StrEnum):
    """Which kind of obligation the action touches; an auditor filters by it."""

    NONE = "none"
    ACCESS_CONTROL = "access_control"
    PERSONAL_DATA = "personal_data"
    FINANCIAL = "financial"
    SECURITY = "security"


@dataclass(frozen=True, slots=True)
class ResourceIdentifier:
    """The thing acted on: `ResourceIdentifier("deployment", str(deployment_id))`."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditIntent:
    """One action to be logged, as its author writes it (into the outbox, in the author's own transaction).

    `id` names this line for ever and makes a replay harmless; `event_id` ties together the lines of one
    request or job. `action` reads `noun.verb`, e.g. `api_key.revoke`, `inference.complete`. `details` holds
    ids, counts and names only: never a prompt, a completion, a secret or personal data.

    Raises:
        ValidationError: a naive time, a malformed action, a detail that is not plain, or a leaf too large.
    """

    id: UUID
    event_id: UUID
    occurred_at: datetime
    action: str
    resource_affected: ResourceIdentifier
    outcome: ActionOutcome
    tenant_id: UUID | None = None
    user_id: UUID | None = None
    key_id: str | None = None
    compliance_impact: ComplianceImpact = ComplianceImpact.NONE
    details: Mapping[str, Detail] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.occurred_at.tzinfo is None:
            raise ValidationError("An audit entry needs a time with a time zone; got a naive one.")
        if not ACTION.fullmatch(self.action):
            raise ValidationError(f"Audit action {self.action!r} is not of the form noun.verb.")
        for name, value in self.details.items():
            check_detail(name, value)
        bound = size_bound(self)
        if bound is not None and bound <= MAX_LEAF_BYTES - SEQUENCING_BYTES:
            return  # it need not be written to be measured
        size = len(canonical_json(intent_to_dict(self)))
        if size > MAX_LEAF_BYTES - SEQUENCING_BYTES:
            raise ValidationError(
                f"Audit entry {self.action} takes {size} bytes; put the payload in by its digest.",
                size=size,
                limit=MAX_LEAF_BYTES - SEQUENCING_BYTES,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLogEntry(AuditIntent):
    """A leaf: the intent, its place in the tenant's own count, the time of logging and the signature.

    `tenant_seq` counts from 0 without holes for each tenant (and for the entries of no tenant), so a missing
    line shows. `timestamp` never goes backwards along the log. `digital_signature` is base64 of an Ed25519
    signature over the canonical JSON of all the other fields.
    """

    tenant_seq: int
    timestamp: datetime
    digital_signature: str = ""


def size_bound(intent: AuditIntent) -> int | None:
    """Return a size in bytes that the canonical form of an intent does not exceed; None if there may be none.

    JSON writes an ASCII character in six bytes at most. Ids, times and the names of fields take less than a
    thousand bytes together, and what a detail takes beside its text less than 64.
    """
    resource, details = intent.resource_affected, intent.details
    texts = [intent.action, resource.kind, resource.id, intent.key_id or "", *details]
    texts += [value for value in details.values() if isinstance(value, str)]
    whole = "".join(texts)
    return 1024 + 64 * len(details) + 6 * len(whole) if whole.isascii() else None


def check_detail(name: str, value: object) -> None:
    """Refuse what RFC 8785 cannot carry exactly: floats, nested values, integers beyond 2^53."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, int) and abs(value) <= MAX_EXACT_INTEGER:
        return
    raise ValidationError(f"Audit detail {name!r} must be text, an exact integer, true, false or null.")


def payload_digest(payload: bytes) -> dict[str, Detail]:
    """Stand in for a payload too large for a leaf: its SHA-256 and size, to be merged into `details`."""
    return {"payload_sha256": hashlib.sha256(payload).hexdigest(), "payload_bytes": len(payload)}


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """Encode as RFC 8785 canonical JSON; ValidationError if the value has no canonical form.

    For what entries are made of msgspec writes the same bytes, many times faster; a test holds them together.
    """
    try:
        return _encode_sorted(value) if _is_plain(value) else rfc8785.dumps(dict(value))
    except (rfc8785.CanonicalizationError, ValueError) as error:
        raise ValidationError(f"An audit entry has no canonical JSON form: {error}.") from error


def _is_plain(value: Mapping[str, Any]) -> bool:
    """Tell whether all names are ASCII (which sorts alike everywhere) and all numbers exact integers."""
    for name, each in value.items():
        kind = type(each)
        if type(name) is not str or not name.isascii():
            return False
        if kind is dict:
            if not _is_plain(each):
                return False
        elif kind is int:
            if abs(each) > MAX_EXACT_INTEGER:
                return False
        elif kind is not str and kind is not bool and each is not None:
            return False
    return True


def format_time(moment: datetime) -> str:
    """Write a time as RFC 3339 in UTC with microseconds, the one spelling a leaf may use."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def parse_time(text: str) -> datetime:
    """Read a time written by `format_time`; ValueError for any other spelling."""
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a time of an audit entry")
    return datetime.fromisoformat(text)


def intent_to_dict(intent: AuditIntent) -> dict[str, Any]:
    """Spell an intent in plain JSON values; absent ids are left out, as RFC 8785 signs what is there."""
    plain: dict[str, Any] = {
        "id": str(intent.id),
        "event_id": str(intent.event_id),
        "occurred_at": format_time(intent.occurred_at),
        "action": intent.action,
        "resource_affected": {"kind": intent.resource_affected.kind, "id": intent.resource_affected.id},
        "outcome": intent.outcome.value,
        "compliance_impact": intent.compliance_impact.value,
        "details": dict(intent.details),
    }
    optional = {"tenant_id": intent.tenant_id, "user_id": intent.user_id, "key_id": intent.key_id}
    plain.update({name: str(value) for name, value in optional.items() if value is not None})
    return plain


def intent_from_dict(plain: Mapping[str, Any]) -> AuditIntent:
    """Read what `intent_to_dict` wrote; ValidationError if a field is missing or malformed."""
    try:
        return AuditIntent(**_intent_fields(plain))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValidationError(f"An audit intent cannot be read: {error!r}.") from error


def entry_to_dict(entry: AuditLogEntry) -> dict[str, Any]:
    """Spell an entry in plain JSON values; an empty signature is left out."""
    plain = intent_to_dict(entry)
    plain["tenant_seq"] = entry.tenant_seq
    plain["timestamp"] = format_time(entry.timestamp)
    if entry.digital_signature:
        plain["digital_signature"] = entry.digital_signature
    return plain


def entry_from_dict(plain: Mapping[str, Any]) -> AuditLogEntry:
    """Read what `entry_to_dict` wrote; ValidationError if a field is missing or malformed."""
    try:
        return AuditLogEntry(
            **_intent_fields(plain),
            tenant_seq=int(plain["tenant_seq"]),
            timestamp=parse_time(plain["timestamp"]),
            digital_signature=str(plain.get("digital_signature", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValidationError(f"An audit entry cannot be read: {error!r}.") from error


def leaf_data(entry: AuditLogEntry) -> bytes:
    """Encode an entry as the bytes the log commits to; at most MAX_LEAF_BYTES, else ValidationError."""
    data = canonical_json(entry_to_dict(entry))
    if len(data) > MAX_LEAF_BYTES:
        raise ValidationError(f"Audit leaf takes {len(data)} bytes; the limit is {MAX_LEAF_BYTES}.")
    return data


def _intent_fields(plain: Mapping[str, Any]) -> dict[str, Any]:
    resource = plain["resource_affected"]
    return {
        "id": UUID(plain["id"]),
        "event_id": UUID(plain["event_id"]),
        "occurred_at": parse_time(plain["occurred_at"]),
        "action": str(plain["action"]),
        "resource_affected": ResourceIdentifier(str(resource["kind"]), str(resource["id"])),
        "outcome": ActionOutcome(plain["outcome"]),
        "tenant_id": UUID(plain["tenant_id"]) if "tenant_id" in plain else None,
        "user_id": UUID(plain["user_id"]) if "user_id" in plain else None,
        "key_id": str(plain["key_id"]) if "key_id" in plain else None,
        "compliance_impact": ComplianceImpact(plain["compliance_impact"]),
        "details": dict(plain["details"]),
    }
