"""Outcomes of requests, counted per tenant, hour, kind and latency; and the scores that were made of them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table, Uuid

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

# Written once: what was said of a customer at a moment, by which definition, and from which facts.
health_scores = Table(
    "health_scores",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("as_of", UtcDateTime, primary_key=True),
    Column("definition", Integer, nullable=False),
    Column("score", Integer),
    Column("body", LargeBinary, nullable=False),
)
