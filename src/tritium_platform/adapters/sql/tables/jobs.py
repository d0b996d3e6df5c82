"""Quantization jobs and the layers they have finished."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Float, ForeignKey, Index, Integer, String, Table, Text, Uuid

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

quantization_jobs = Table(
    "quantization_jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("tier", String(20), nullable=False),
    Column("key_id", String(12), nullable=False),
    Column("source", String(400), nullable=False),
    Column("source_path", Text, nullable=False),
    Column("model_name", String(200), nullable=False),
    Column("config", JSON, nullable=False),
    Column("storage_reservation", Uuid, nullable=False),
    Column("storage_bytes", BigInteger, nullable=False),
    Column("state", String(20), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("total_layers", Integer),
    Column("error_code", String(100)),
    Column("error_message", Text),
    Column("error_recovery", String(40)),
    Index("ix_quantization_jobs_tenant_id_id", "tenant_id", "id"),
    Index("ix_quantization_jobs_state", "state"),
)

quantization_layers = Table(
    "quantization_layers",
    metadata,
    Column("job_id", Uuid, ForeignKey("quantization_jobs.id"), primary_key=True),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("name", String(400), nullable=False),
    Column("strategy", String(40), nullable=False),
    Column("planes", Integer, nullable=False),
    Column("loss", Float, nullable=False),
    Column("seconds", Float, nullable=False),
)
