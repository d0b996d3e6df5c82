"""The outbox of the audit log, written in the transaction of the change that it reports, and its one log."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, Table, Text, Uuid

from tritium_platform.adapters.sql.tables.base import UtcDateTime, metadata

audit_outbox = Table(
    "audit_outbox",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("entry_json", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("log_index", BigInteger),
    # What is not logged yet comes first in this index, in the order in which it is wanted.
    Index("ix_audit_outbox_log_index_created_at_id", "log_index", "created_at", "id"),
)

# One row: two logs that share an outbox would each hold a part of what happened.
audit_owner = Table(
    "audit_owner",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("log_id", Uuid, nullable=False),
    Column("directory", Text, nullable=False),
    Column("bound_at", UtcDateTime, nullable=False),
    CheckConstraint("id = 1", name="only_one"),
)
