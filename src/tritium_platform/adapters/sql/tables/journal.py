"""The journal of double entry: entries first, then the group that closes them.

An entry needs its group at the commit (a deferred foreign key); a group is taken only if the entries that are
there sum to zero, and after it no entry is (triggers of migration 17). So nothing that does not balance is
ever committed, on either database.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
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

journal_groups = Table(
    "journal_groups",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("operation_id", String(200), nullable=False, unique=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("description", Text, nullable=False),
    Column("occurred_at", UtcDateTime, nullable=False),
    Index("ix_journal_groups_tenant_id_id", "tenant_id", "id"),
)

journal_entries = Table(
    "journal_entries",
    metadata,
    Column(
        "group_id",
        Uuid,
        ForeignKey("journal_groups.id", deferrable=True, initially="DEFERRED"),
        primary_key=True,
    ),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("account", String(40), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", String(3), nullable=False),
    CheckConstraint("amount_minor <> 0", name="amount_not_zero"),
)
