"""Files of tenants, batches of requests, and what became of their lines."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    Uuid,
)

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

files = Table(
    "files",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("purpose", String(20), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_files_tenant_id_id", "tenant_id", "id"),
    CheckConstraint("size_bytes > 0", name="size_positive"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("key_id", String(12), nullable=False),
    Column("endpoint", String(40), nullable=False),
    Column("input_file_id", Uuid, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("status", String(20), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("in_progress_at", UtcDateTime),
    Column("finalizing_at", UtcDateTime),
    Column("completed_at", UtcDateTime),
    Column("failed_at", UtcDateTime),
    Column("expired_at", UtcDateTime),
    Column("cancelling_at", UtcDateTime),
    Column("cancelled_at", UtcDateTime),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("kept_bytes", BigInteger, nullable=False),
    Column("output_file_id", Uuid),
    Column("error_file_id", Uuid),
    Column("problems", JSON, nullable=False),
    Index("ix_batches_tenant_id_id", "tenant_id", "id"),
    Index("ix_batches_status", "status"),
    CheckConstraint("completed + failed <= total", name="counts_within_total"),
)

batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", Uuid, ForeignKey("batches.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("content", Text, nullable=False),
    Column("is_error", Boolean, nullable=False),
)
