"""What was used: integers only, so that sums are exact and do not depend on the order."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping  # noqa: TC003 - records are read back from a spool, and say as what
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from tritium_platform.errors import ValidationError
from tritium_platform.tenancy.model import TenantTier

LARGEST_QUANTITY = 2**63 - 1
LONGEST_NAME = 200
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
_TIMED_ID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-")


class OperationType(StrEnum):
    """What a tenant asked for."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    QUANTIZATION = "quantization"
    DEPLOYMENT = "deployment"
    EXTERNAL = "external"
    """Somebody else did the work and reported it as an event."""


class Meter(StrEnum):
    """What can have a price."""

    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    EMBEDDING_TOKENS = "embedding_tokens"
    QUANTIZED_PARAMETERS = "quantized_parameters"
    COMPUTE_MS = "compute_ms"


def _require_quantities(of: msgspec.Struct) -> None:
    for name in of.__struct_fields__:
        value = getattr(of, name)
        if type(value) is not int or not 0 <= value <= LARGEST_QUANTITY:
            raise ValidationError(f"The quantity {name} must be a whole number from 0 on.", field=name)


class UsageQuantities(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """What a tenant pays for, counted."""

    input_tokens: int = 0
    output_tokens: int = 0
    embedding_tokens: int = 0
    quantized_parameters: int = 0

    def __post_init__(self) -> None:
        _require_quantities(self)


class ResourceUsage(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """What the machine spent, measured: milliseconds of computing, bytes of memory, disk and wire.

    Attributes:
        compute_time_ms: the use's share of the time that engines or a job worked.
        memory_peak_bytes: the most that a text held of its engine's memory of keys and values.
        storage_bytes: what was stored for it and stays: a model, a line of a batch's output.
        network_bytes_transferred: bodies of the request and of its answer, as they crossed the wire.
    """

    compute_time_ms: int = 0
    memory_peak_bytes: int = 0
    storage_bytes: int = 0
    network_bytes_transferred: int = 0

    def __post_init__(self) -> None:
        _require_quantities(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is known of a use because somebody else reported it as an event.

    Attributes:
        dimensions: what the sender said of it, as it was said.
        received_at: when it arrived.
        body_sha256: the digest of all that the sender said.
    """

    dimensions: Mapping[str, str]
    received_at: datetime
    body_sha256: bytes


def key_prefix(*, tenant_id: UUID, source: str) -> bytes:
    """Return what the uses of a tenant and a source have in common in `unique_key`."""
    written = source.encode("utf-8", "surrogatepass")
    return tenant_id.bytes + len(written).to_bytes(2) + written


def unique_key(prefix: bytes, event_id: str) -> bytes:
    """Return 16 bytes that name a use for ever: the first of SHA-256 over a prefix and the event id.

    An id that begins as a UUID of version 7 (RFC 9562) begins with milliseconds, and so does its key, before
    ten bytes of the digest: what comes now lies together in an index, however many there are.
    """
    digest = hashlib.sha256(prefix + event_id.encode("utf-8", "surrogatepass")).digest()
    if _TIMED_ID.match(event_id):
        return bytes.fromhex(event_id[:8] + event_id[9:13]) + digest[:10]
    return digest[:16]


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """One use, counted once for ever under (tenant_id, source, event_id).

    Attributes:
        source: who counted, for example `gateway` or `quantization`.
        event_id: derived from the request or the job, so that a second attempt has the same.
        tier: the tenant's tier at the time, which decides the price.
        outcome: `success`, `cancelled` or `failed`.
        occurred_at: when the use ended; part of the body, so a repeated report must repeat it.
        key_id: the API key, `None` for work that has no caller.
        report: `None` for what we counted ourselves.
    """

    id: UUID
    tenant_id: UUID
    source: str
    event_id: str
    operation: OperationType
    tier: TenantTier
    outcome: str
    occurred_at: datetime
    quantities: UsageQuantities
    resources: ResourceUsage
    model: str = ""
    key_id: str | None = None
    report: Report | None = None

    def __post_init__(self) -> None:
        for name in ("source", "event_id", "outcome"):
            if not 0 < len(getattr(self, name)) <= LONGEST_NAME:
                raise ValidationError(
                    f"The {name} of a usage record has 1 to {LONGEST_NAME} characters.", field=name
                )
        if self.occurred_at.tzinfo is None:
            raise ValidationError("The time of a usage record needs a time zone.", field="occurred_at")

    @property
    def device(self) -> str:
        """Where it ran; empty where nobody said it."""
        return self.report.dimensions.get("device", "") if self.report else ""

    def unique_key(self) -> bytes:
        """Return what names the use for ever in 16 bytes."""
        return unique_key(key_prefix(tenant_id=self.tenant_id, source=self.source), self.event_id)

    def metered(self) -> dict[Meter, int]:
        """Return every meter with its quantity."""
        return {
            Meter.INPUT_TOKENS: self.quantities.input_tokens,
            Meter.OUTPUT_TOKENS: self.quantities.output_tokens,
            Meter.EMBEDDING_TOKENS: self.quantities.embedding_tokens,
            Meter.QUANTIZED_PARAMETERS: self.quantities.quantized_parameters,
            Meter.COMPUTE_MS: self.resources.compute_time_ms,
        }

    def body_sha256(self) -> bytes:
        """Return the digest of everything but `id`: two reports of one use have the same.

        Of an event it is the digest of what its sender said: nothing that the receiver adds is in it.
        """
        if self.report is not None:
            return self.report.body_sha256
        body = {
            "tenant_id": str(self.tenant_id),
            "source": self.source,
            "event_id": self.event_id,
            "operation": self.operation.value,
            "tier": self.tier.value,
            "outcome": self.outcome,
            "occurred_at": self.occurred_at.astimezone(UTC).isoformat(),
            "quantities": msgspec.structs.asdict(self.quantities),
            "resources": msgspec.structs.asdict(self.resources),
            "model": self.model,
            "key_id": self.key_id,
        }
        return hashlib.sha256(_sorted_json(body)).digest()


def _sorted_json(body: Mapping[str, object]) -> bytes:
    """Write JSON with sorted names; msgspec writes the same bytes as `json`, many times faster."""
    try:
        return _encode_sorted(body)
    except UnicodeEncodeError:  # half of a surrogate pair, which only `json` lets through
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """The sum of one meter at one tier over a period."""

    tier: TenantTier
    meter: Meter
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantActivity:
    """What a tenant used in a period: how often, and for how many milliseconds of computing."""

    tenant_id: UUID
    requests: int
    compute_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """Tokens (read, written and embedded) of one model at one tier, of all tenants, in an hour of UTC.

    `compute_ms` is what engines worked for them.
    """

    tier: TenantTier
    model: str
    hour: datetime
    tokens: int
    compute_ms: int
