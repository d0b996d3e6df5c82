"""The table of security: security events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_security_events_timestamp": ["timestamp"],
    "ix_security_events_source_ip_timestamp": ["source_ip", "timestamp"],
    "ix_security_events_key_id_timestamp": ["key_id", "timestamp"],
    "ix_security_events_tenant_id_timestamp": ["tenant_id", "timestamp"],
}


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "security_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("event_type", sa.String(length=40), nullable=False),
        sa.Column("severity", sa.Integer(), nullable=False),
        sa.Column("timestamp", UtcDateTime(), nullable=False),
        sa.Column("source_ip", sa.String(length=45), nullable=True),
        sa.Column("tenant_id", sa.Uuid(), nullable=True),
        sa.Column("key_id", sa.String(length=40), nullable=True),
        sa.Column("resource", sa.String(length=200), nullable=True),
        sa.Column("reason", sa.String(length=100), nullable=False),
        sa.Column("event_data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_security_events")),
    )
    for name, columns in INDEXES.items():
        op.create_index(name, "security_events", columns, unique=False)


def downgrade() -> None:
    """Drop the table."""
    for name in INDEXES:
        op.drop_index(name, table_name="security_events")
    op.drop_table("security_events")
