"""Usage records: one row per use, unique for ever."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    LargeBinary,
    String,
    Table,
    Text,
    Uuid,
)

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

QUANTITIES = ("input_tokens", "output_tokens", "embedding_tokens", "quantized_parameters")
RESOURCES = ("compute_time_ms", "memory_peak_bytes", "storage_bytes", "network_bytes_transferred")

usage_records = Table(
    "usage_records",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("source", String(200), nullable=False),
    Column("event_id", String(200), nullable=False),
    # Of (tenant_id, source, event_id), which is unique by it: an index of these is a third of one of those.
    Column("unique_key", Uuid, nullable=False, unique=True),
    Column("operation", String(40), nullable=False),
    Column("tier", String(20), nullable=False),
    Column("outcome", String(200), nullable=False),
    Column("model", String(400), nullable=False),
    Column("key_id", String(12)),
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("body_sha256", LargeBinary, nullable=False),
    Column("device", String(200), nullable=False, server_default=""),
    Column("dimensions", Text),
    Column("received_at", UtcDateTime),
    *(Column(name, BigInteger, nullable=False) for name in QUANTITIES + RESOURCES),
    *(CheckConstraint(f"{name} >= 0", name=f"{name}_not_negative") for name in QUANTITIES + RESOURCES),
    Index("ix_usage_records_tenant_id_occurred_at", "tenant_id", "occurred_at"),
)
