"""Settlements as MessagePack: what a spool keeps of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from tritium_platform.audit.model import ActionOutcome, AuditIntent, ComplianceImpact, ResourceIdentifier
from tritium_platform.errors import BitNetServiceError, PlatformError
from tritium_platform.insight.health import OutcomeKind
from tritium_platform.metering.model import OperationType, ResourceUsage, UsageQuantities, UsageRecord
from tritium_platform.settlement import Settlement
from tritium_platform.tenancy.model import TenantTier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")


def encode_settlements(settlements: Sequence[Settlement]) -> bytes:
    """Write settlements down, field by field under their names."""
    return _encoder.encode(list(settlements))


def decode_settlements(data: bytes) -> list[Settlement]:
    """Read what `encode_settlements` wrote; PlatformError if it is something else."""
    try:
        return [_settlement(each) for each in msgspec.msgpack.decode(data)]
    except (msgspec.DecodeError, BitNetServiceError, KeyError, TypeError, ValueError) as error:
        raise PlatformError(f"A frame of the spool holds no settlements: {error!r}.") from error


def _settlement(plain: Mapping[str, Any]) -> Settlement:
    return Settlement(
        record=_record(plain["record"]),
        intent=_intent(plain["intent"]),
        kind=OutcomeKind(plain["kind"]),
        latency_bucket=plain["latency_bucket"],
        reservation_id=UUID(bytes=plain["reservation_id"]),
        is_leased=plain["is_leased"],
        requests=plain["requests"],
    )


def _record(plain: Mapping[str, Any]) -> UsageRecord:
    return UsageRecord(
        **{
            **plain,
            "id": UUID(bytes=plain["id"]),
            "tenant_id": UUID(bytes=plain["tenant_id"]),
            "operation": OperationType(plain["operation"]),
            "tier": TenantTier(plain["tier"]),
            "quantities": UsageQuantities(**plain["quantities"]),
            "resources": ResourceUsage(**plain["resources"]),
        }
    )


def _intent(plain: Mapping[str, Any]) -> AuditIntent:
    return AuditIntent(
        **{
            **plain,
            "id": UUID(bytes=plain["id"]),
            "event_id": UUID(bytes=plain["event_id"]),
            "tenant_id": _uuid(plain["tenant_id"]),
            "user_id": _uuid(plain["user_id"]),
            "resource_affected": ResourceIdentifier(**plain["resource_affected"]),
            "outcome": ActionOutcome(plain["outcome"]),
            "compliance_impact": ComplianceImpact(plain["compliance_impact"]),
        }
    )


def _uuid(data: bytes | None) -> UUID | None:
    return None if data is None else UUID(bytes=data)
