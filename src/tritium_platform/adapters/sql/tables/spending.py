"""Spend caps, and what happened to them by month: each alert once, refusals that would have been counted."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, String, Table, Uuid

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

spend_caps = Table(
    "spend_caps",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("mode", String(10), nullable=False),
    CheckConstraint("amount_minor > 0", name="amount_positive"),
)

spend_marks = Table(
    "spend_marks",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("period", String(7), primary_key=True),
    Column("name", String(10), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
