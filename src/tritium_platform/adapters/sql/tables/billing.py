"""Price versions, written once."""

from __future__ import annotations

from sqlalchemy import Column, String, Table, Text

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

price_versions = Table(
    "price_versions",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("currency", String(3), nullable=False),
    Column("valid_from", UtcDateTime, nullable=False, unique=True),
    Column("body", Text, nullable=False),
)
