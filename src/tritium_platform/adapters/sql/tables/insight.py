"""Outcomes of requests, counted per tenant, hour, kind and latency."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, String, Table, Uuid

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

health_outcomes = Table(
    "health_outcomes",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("hour", UtcDateTime, primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("latency_bucket", Integer, primary_key=True, autoincrement=False),
    Column("count", BigInteger, nullable=False),
)
