"""Events as MessagePack: what a spool keeps of them. What many have in common is written down once."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tritium_platform.errors import PlatformError
from tritium_platform.metering.event import EventKind, UsageEvent
from tritium_platform.metering.model import unique_key

if TYPE_CHECKING:
    from collections.abc import Sequence


class SpooledEvent(NamedTuple):
    """An event and the id, 16 bytes, that its row has whenever it comes into the books."""

    event: UsageEvent
    identity: bytes


class _Row(msgspec.Struct, array_like=True, gc=False):
    """One event.

    Releases before migration 30 wrote a key down that is none any more; where there is none they stop.
    """

    kind: int
    identity: bytes
    id: str
    former_key: bytes | None
    quantity: int
    event_time: datetime
    body_sha256: bytes


class _Frame(msgspec.Struct):
    """Kinds are counted through; a release that asks nobody does not know the second list, and stops."""

    kinds: list[EventKind]
    events: list[_Row]
    unconfirmed_kinds: list[EventKind] = []


_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
_decoder = msgspec.msgpack.Decoder(_Frame)


def encode_events(events: Sequence[SpooledEvent]) -> bytes:
    """Write events down, each kind once."""
    kinds = sorted(dict.fromkeys(event.kind for event, _ in events), key=lambda kind: not kind.is_confirmed)
    places = {kind: place for place, kind in enumerate(kinds)}
    confirmed = sum(kind.is_confirmed for kind in kinds)
    rows = [
        _Row(
            kind=places[event.kind],
            identity=identity,
            id=event.id,
            former_key=None,
            quantity=event.quantity,
            event_time=event.event_time,
            body_sha256=event.body_sha256,
        )
        for event, identity in events
    ]
    return _encoder.encode(_Frame(kinds[:confirmed], rows, kinds[confirmed:]))


def decode_events(data: bytes) -> list[SpooledEvent]:
    """Read what `encode_events` wrote; PlatformError if it is something else."""
    try:
        frame = _decoder.decode(data)
        kinds = [*frame.kinds, *frame.unconfirmed_kinds]
        return [_spooled(row, kind=kinds[row.kind]) for row in frame.events]
    except (msgspec.DecodeError, IndexError) as error:
        raise PlatformError(f"A frame of the spool holds no events: {error!r}.") from error


def _spooled(row: _Row, *, kind: EventKind) -> SpooledEvent:
    event = UsageEvent(
        kind=kind,
        id=row.id,
        key=unique_key(kind.key_prefix, row.id),
        quantity=row.quantity,
        event_time=row.event_time,
        body_sha256=row.body_sha256,
    )
    return SpooledEvent(event, row.identity)
