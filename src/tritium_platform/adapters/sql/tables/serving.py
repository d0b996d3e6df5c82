"""Models of tenants, deployments of models, and aliases of deployments."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
)

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

models = Table(
    "models",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("name", String(200), nullable=False),
    Column("path", Text, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("source", String(400), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("tenant_id", "name"),
    CheckConstraint("size_bytes >= 0", name="size_not_negative"),
)

deployments = Table(
    "deployments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("model_id", Uuid, nullable=False),
    Column("name", String(200), nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("threads", Integer, nullable=False),
    Column("memory_limit_bytes", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("is_pinned", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("tenant_id", "name"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("name", String(200), nullable=False),
    Column("target", String(200), nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("tenant_id", "name"),
)
