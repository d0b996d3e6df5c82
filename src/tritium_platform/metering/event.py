"""A use that somebody else counted: what its sender says, and what makes it the same one for ever."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from tritium_platform.errors import BitNetServiceError, NotFoundError, ValidationError
from tritium_platform.metering.model import (
    LONGEST_NAME,
    Meter,
    OperationType,
    Report,
    ResourceUsage,
    UsageQuantities,
    UsageRecord,
    key_prefix,
    unique_key,
)
from tritium_platform.tenancy.model import TenantTier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# SQLite adds up in 64 bits: nine million of the largest fit into one tenant's month.
LARGEST_EVENT_QUANTITY = 10**12
MOST_DIMENSIONS = 16
LONGEST_DIMENSION = 40
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
# Clocks of two machines differ; a use of next month would be billed before it happens.
MOST_AHEAD = timedelta(hours=1)
# What counts under these here must not be taken by others: an id that is taken is not counted again.
OWN_SOURCES = frozenset({"gateway", "quantization"})
TIER = "tier"
_METERS = {meter.value: meter for meter in Meter}
_encode = msgspec.json.Encoder(order="sorted").encode


# `gc=False`: neither kind of event can be part of a circle, and to look for circles among so many costs more
# than to read them.
class ReportedEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """An event as its sender wrote it; nothing of it is checked but the types.

    `id` is any text that the source gives no other use; UUIDs of version 7 cost the database least.
    """

    source: str
    id: str
    meter: str
    quantity: int
    event_time: datetime
    tenant_id: UUID | None = None
    dimensions: dict[str, str] = {}


class EventKind(msgspec.Struct, frozen=True, kw_only=True, gc=False, eq=False):
    """What many events of a batch have in common, judged once for all of them.

    Attributes:
        dimensions: what the sender says of it; `model`, `device` and `tier` can have prices of their own.
        tier: at which it is priced.
        key_prefix: what the keys of these events have in common.
        key_id: the API key that brought it, None for the operator.
        received_at: when it arrived.
        is_confirmed: whether who brought it was known to be allowed to; if not, it is asked before it counts.
    """

    tenant_id: UUID
    source: str
    meter: Meter
    dimensions: dict[str, str]
    tier: TenantTier
    key_prefix: bytes
    key_id: str | None
    received_at: datetime
    is_confirmed: bool = True

    def confirmed(self, tier: TenantTier) -> EventKind:
        """Return the same of somebody who was allowed to send it; `tier` counts unless one was said."""
        said = self.dimensions.get(TIER)
        return msgspec.structs.replace(self, tier=TenantTier(said) if said else tier, is_confirmed=True)


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event that can be counted, once for ever under (tenant_id, source, id).

    Attributes:
        key: what its tenant, source and id are in 16 bytes (`unique_key`); events are sorted by it.
        event_time: when it was used, in UTC; decides the month that pays for it.
        body_sha256: the digest of what the sender says: the same of two reports of one use.
    """

    kind: EventKind
    id: str
    key: bytes
    quantity: int
    event_time: datetime
    body_sha256: bytes

    def record(self, identity: UUID) -> UsageRecord:
        """Return the usage record that bills the event."""
        kind = self.kind
        counted = {} if kind.meter is Meter.COMPUTE_MS else {kind.meter.value: self.quantity}
        return UsageRecord(
            id=identity,
            tenant_id=kind.tenant_id,
            source=kind.source,
            event_id=self.id,
            operation=OperationType.EXTERNAL,
            tier=kind.tier,
            outcome="success",
            occurred_at=self.event_time,
            quantities=UsageQuantities(**counted),
            resources=ResourceUsage(compute_time_ms=0 if counted else self.quantity),
            model=kind.dimensions.get("model", ""),
            key_id=kind.key_id,
            report=Report(
                dimensions=kind.dimensions, received_at=kind.received_at, body_sha256=self.body_sha256
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who reports events: a tenant by one of its keys its own, the operator everybody's.

    `tiers` are those of the tenants that it may report of; `is_confirmed` is False if the database could not
    be asked for that.
    """

    tiers: Mapping[UUID, TenantTier]
    tenant_id: UUID | None = None
    key_id: str | None = None
    is_confirmed: bool = True


def accept_events(
    reported: Sequence[ReportedEvent], *, sender: Sender, now: datetime
) -> list[UsageEvent | BitNetServiceError]:
    """Return each event as it can be counted, or why it cannot."""
    kinds: dict[tuple[object, ...], EventKind] = {}
    latest = now + MOST_AHEAD
    return [_accept(each, sender=sender, now=now, latest=latest, kinds=kinds) for each in reported]


def body_sha256(reported: ReportedEvent, *, tenant_id: UUID, moment: datetime) -> bytes:
    """Return the digest of what a sender says: SHA-256 of the array below as JSON without spaces.

    `[tenant_id, source, id, meter, quantity, event_time in UTC, dimensions by name]`; nothing that the
    receiver adds is in it, so that a report by another key, in another form or a year later is the same.
    """
    body = (
        tenant_id,
        reported.source,
        reported.id,
        reported.meter,
        reported.quantity,
        moment,
        reported.dimensions,
    )
    return hashlib.sha256(_encode(body)).digest()


def digests_of(record: UsageRecord) -> frozenset[bytes]:
    """Return the digests that a recorded event can have, worked out from what the books say of it.

    It is one; of an event that counts nothing it is one per meter, for the books do not say which it named;
    and none if several meters are counted, or another model than its sender said.
    """
    dimensions = dict(record.report.dimensions) if record.report else {}
    counted = {meter: quantity for meter, quantity in record.metered().items() if quantity}
    if len(counted) > 1 or record.model != dimensions.get("model", ""):
        return frozenset()
    said = (
        ReportedEvent(
            source=record.source,
            id=record.event_id,
            meter=meter.value,
            quantity=quantity,
            event_time=record.occurred_at,
            dimensions=dimensions,
        )
        for meter, quantity in (counted or dict.fromkeys(Meter, 0)).items()
    )
    moment = record.occurred_at.astimezone(UTC)
    return frozenset(body_sha256(each, tenant_id=record.tenant_id, moment=moment) for each in said)


def _accept(
    reported: ReportedEvent,
    *,
    sender: Sender,
    now: datetime,
    latest: datetime,
    kinds: dict[tuple[object, ...], EventKind],
) -> UsageEvent | BitNetServiceError:
    said = (reported.tenant_id, reported.source, reported.meter, *reported.dimensions.items())
    try:
        kind = kinds.get(said)
        if kind is None:
            kind = kinds[said] = _kind(reported, sender=sender, now=now)
        if not _is_name(reported.id):
            raise _not_a_name("id")
        if not 0 <= reported.quantity <= LARGEST_EVENT_QUANTITY:
            raise ValidationError(
                f"A quantity is a whole number from 0 to {LARGEST_EVENT_QUANTITY}.", field="quantity"
            )
        moment = _moment(reported.event_time, latest=latest)
        return UsageEvent(
            kind=kind,
            id=reported.id,
            key=unique_key(kind.key_prefix, reported.id),
            quantity=reported.quantity,
            event_time=moment,
            body_sha256=body_sha256(reported, tenant_id=kind.tenant_id, moment=moment),
        )
    except BitNetServiceError as error:
        return error


def _kind(reported: ReportedEvent, *, sender: Sender, now: datetime) -> EventKind:
    """Return what an event has in common with others of its batch; what of it is wrong is raised."""
    tenant_id = reported.tenant_id or sender.tenant_id
    if tenant_id is None:
        raise ValidationError("The operator names the tenant of each event.", field="tenant_id")
    tier = sender.tiers.get(tenant_id)
    if tier is None:
        raise NotFoundError("There is no such tenant.", kind="tenant", id=str(tenant_id))
    meter = _METERS.get(reported.meter)
    if meter is None:
        known = ", ".join(_METERS)
        raise ValidationError(f"'{reported.meter[:40]}' is not a meter: choose from {known}.", field="meter")
    if not _is_name(reported.source):
        raise _not_a_name("source")
    if reported.source in OWN_SOURCES:
        raise ValidationError(f"The source '{reported.source}' is the service's own.", field="source")
    return EventKind(
        tenant_id=tenant_id,
        source=reported.source,
        meter=meter,
        dimensions=reported.dimensions,
        tier=_tier(reported.dimensions, sender=sender, tier=tier),
        key_prefix=key_prefix(tenant_id=tenant_id, source=reported.source),
        key_id=sender.key_id,
        received_at=now,
        is_confirmed=sender.is_confirmed,
    )


def _not_a_name(field: str) -> ValidationError:
    return ValidationError(f"The {field} has 1 to {LONGEST_NAME} printable characters.", field=field)


def _is_name(value: str) -> bool:
    return 0 < len(value) <= LONGEST_NAME and value.isprintable()


def _moment(event_time: datetime, *, latest: datetime) -> datetime:
    """Return the time of an event in UTC; ValidationError if it cannot be right."""
    if event_time.tzinfo is None:
        raise ValidationError("The time of an event needs a time zone, such as Z.", field="event_time")
    if not EARLIEST <= event_time <= latest:
        raise ValidationError(
            f"The time of an event lies between {EARLIEST:%Y-%m-%d} and an hour from now.", field="event_time"
        )
    return event_time if event_time.tzinfo is UTC else event_time.astimezone(UTC)


def _tier(dimensions: Mapping[str, str], *, sender: Sender, tier: TenantTier) -> TenantTier:
    """Return the tier that prices an event: the tenant's now, unless the operator says which it was then."""
    if len(dimensions) > MOST_DIMENSIONS:
        raise ValidationError(f"An event has at most {MOST_DIMENSIONS} dimensions.", field="dimensions")
    for name, value in dimensions.items():
        if not (0 < len(name) <= LONGEST_DIMENSION and name.isprintable() and _is_name(value)):
            raise ValidationError(
                f"A dimension has a name of 1 to {LONGEST_DIMENSION} and a value of 1 to {LONGEST_NAME} "
                "printable characters.",
                field="dimensions",
            )
    said = dimensions.get(TIER)
    if said is None:
        return tier
    if sender.tenant_id is not None:
        raise ValidationError("At which tier a use is priced is the operator's to say.", field="dimensions")
    if said not in set(TenantTier):
        known = ", ".join(TenantTier)
        raise ValidationError(f"'{said[:40]}' is not a tier: choose from {known}.", field="dimensions")
    return TenantTier(said)
