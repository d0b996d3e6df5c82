"""Fair use: refusals counted per tenant, slot of time and code, and the measures that were taken."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, String, Table, Text, Uuid

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

fair_use_refusals = Table(
    "fair_use_refusals",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("slot", UtcDateTime, primary_key=True),
    Column("code", String(100), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Index("ix_fair_use_refusals_slot", "slot"),
)

fair_use_measures = Table(
    "fair_use_measures",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("rule", String(20), nullable=False),
    Column("action", String(20), nullable=False),
    Column("reason", Text, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("share", String(80), nullable=False),
    Column("starts_at", UtcDateTime, nullable=False),
    Column("ends_at", UtcDateTime, nullable=False),
    Column("is_dry_run", Boolean, nullable=False),
    Column("lifted_at", UtcDateTime),
    Column("lifted_because", Text),
    Index("ix_fair_use_measures_starts_at", "starts_at"),
    Index("ix_fair_use_measures_tenant_id_starts_at", "tenant_id", "starts_at"),
)
