"""Idempotency keys: digests of what was asked, and the encrypted answer once there is one."""

from __future__ import annotations

from sqlalchemy import Column, Index, LargeBinary, String, Table, UniqueConstraint, Uuid

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("key_id", String(12), nullable=False),
    Column("key_digest", LargeBinary(32), nullable=False),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("owner", Uuid, nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("answer", LargeBinary),
    UniqueConstraint("tenant_id", "key_id", "key_digest"),
    Index("ix_idempotency_keys_tenant_id_expires_at", "tenant_id", "expires_at"),
    Index("ix_idempotency_keys_expires_at", "expires_at"),
)
