"""The tables of quotas: quota counters and reservations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "quota_counters",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("meter", sa.String(length=40), nullable=False),
        sa.Column("period", sa.String(length=10), nullable=False),
        sa.Column("ceiling", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("held + used <= ceiling", name=op.f("ck_quota_counters_within_ceiling")),
        sa.CheckConstraint("held >= 0", name=op.f("ck_quota_counters_held_not_negative")),
        sa.CheckConstraint("used >= 0", name=op.f("ck_quota_counters_used_not_negative")),
        sa.PrimaryKeyConstraint("tenant_id", "meter", "period", name=op.f("pk_quota_counters")),
    )
    op.create_table(
        "reservations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("meter", sa.String(length=40), nullable=False),
        sa.Column("period", sa.String(length=10), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_reservations_amount_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
    )
    op.create_index("ix_reservations_state_expires_at", "reservations", ["state", "expires_at"], unique=False)
    # ### end Alembic commands ###


def downgrade() -> None:
    """Drop the tables."""
    op.drop_index("ix_reservations_state_expires_at", table_name="reservations")
    op.drop_table("reservations")
    op.drop_table("quota_counters")
    # ### end Alembic commands ###
