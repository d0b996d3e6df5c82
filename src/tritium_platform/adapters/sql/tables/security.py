"""Security events: what may have been part of an attack."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Index, Integer, String, Table, Uuid

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

security_events = Table(
    "security_events",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("event_type", String(40), nullable=False),
    Column("severity", Integer, nullable=False),
    Column("timestamp", UtcDateTime, nullable=False),
    Column("source_ip", String(45)),
    Column("tenant_id", Uuid),
    Column("key_id", String(40)),
    Column("resource", String(200)),
    Column("reason", String(100), nullable=False),
    Column("event_data", JSON, nullable=False),
    Index("ix_security_events_timestamp", "timestamp"),
    Index("ix_security_events_source_ip_timestamp", "source_ip", "timestamp"),
    Index("ix_security_events_key_id_timestamp", "key_id", "timestamp"),
    Index("ix_security_events_tenant_id_timestamp", "tenant_id", "timestamp"),
)
