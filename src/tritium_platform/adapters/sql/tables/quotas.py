"""Quota counters and the reservations that move them."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, String, Table, Uuid

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

quota_counters = Table(
    "quota_counters",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("meter", String(40), primary_key=True),
    Column("period", String(10), primary_key=True),
    Column("ceiling", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    CheckConstraint("used >= 0", name="used_not_negative"),
    CheckConstraint("held >= 0", name="held_not_negative"),
    # The promise of the whole room, kept by the database itself.
    CheckConstraint("held + used <= ceiling", name="within_ceiling"),
)

# How far the settlements of a gateway's spool are in the books: written in the transaction that applies them.
spools = Table(
    "spools",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("position", BigInteger, nullable=False),
)

reservations = Table(
    "reservations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("meter", String(40), nullable=False),
    Column("period", String(10), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False, server_default="0"),
    Column("state", String(10), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    CheckConstraint("amount >= 0", name="amount_not_negative"),
    CheckConstraint("used >= 0 AND used <= amount", name="used_within_amount"),
    Index("ix_reservations_state_expires_at", "state", "expires_at"),
)
