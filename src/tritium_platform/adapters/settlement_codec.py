"""Settlements as MessagePack: what a spool keeps of them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from tritium_platform.audit.model import Detail, ResourceIdentifier
from tritium_platform.errors import BitNetServiceError, PlatformError
from tritium_platform.insight.health import OutcomeKind
from tritium_platform.metering.model import UsageRecord
from tritium_platform.settlement import Settlement

if TYPE_CHECKING:
    from collections.abc import Sequence


class _EarlierIntent(msgspec.Struct):
    event_id: UUID
    resource_affected: ResourceIdentifier
    details: dict[str, Detail]


class _EarlierSettlement(msgspec.Struct):
    """As spools kept it until November 2026: with the line of the audit log written out beside the record."""

    record: UsageRecord
    intent: _EarlierIntent
    kind: OutcomeKind
    latency_bucket: int
    reservation_id: UUID
    is_leased: bool
    requests: int

    def settlement(self) -> Settlement:
        """Return it as it is kept now."""
        code = self.intent.details["code"]
        return Settlement(
            record=self.record,
            event_id=self.intent.event_id,
            subject=self.intent.resource_affected,
            request_id=str(self.intent.details["request_id"]),
            cost=str(self.intent.details["cost"]),
            code=None if code is None else str(code),
            kind=self.kind,
            latency_bucket=self.latency_bucket,
            reservation_id=self.reservation_id,
            is_leased=self.is_leased,
            requests=self.requests,
        )


_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
_decoder = msgspec.msgpack.Decoder(list[Settlement])
_earlier = msgspec.msgpack.Decoder(list[_EarlierSettlement])


def encode_settlements(settlements: Sequence[Settlement]) -> bytes:
    """Write settlements down, field by field under their names."""
    return _encoder.encode(settlements)


def decode_settlements(data: bytes) -> list[Settlement]:
    """Read what `encode_settlements` wrote, now or before; PlatformError if it is something else."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, BitNetServiceError, ValueError) as error:
        try:
            return [each.settlement() for each in _earlier.decode(data)]
        except (msgspec.DecodeError, BitNetServiceError, KeyError, ValueError):
            raise PlatformError(f"A frame of the spool holds no settlements: {error!r}.") from error
