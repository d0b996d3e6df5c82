"""Fair use: counts of refusals, and the measures that were taken."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_fair_use_refusals_slot", "fair_use_refusals", ["slot"]),
    ("ix_fair_use_measures_starts_at", "fair_use_measures", ["starts_at"]),
    ("ix_fair_use_measures_tenant_id_starts_at", "fair_use_measures", ["tenant_id", "starts_at"]),
)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "fair_use_refusals",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("slot", UtcDateTime(), nullable=False),
        sa.Column("code", sa.String(length=100), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "slot", "code", name=op.f("pk_fair_use_refusals")),
    )
    op.create_table(
        "fair_use_measures",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("rule", sa.String(length=20), nullable=False),
        sa.Column("action", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("share", sa.String(length=80), nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.Column("is_dry_run", sa.Boolean(), nullable=False),
        sa.Column("lifted_at", UtcDateTime(), nullable=True),
        sa.Column("lifted_because", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fair_use_measures")),
    )
    for name, table, columns in INDEXES:
        op.create_index(name, table, columns, unique=False)


def downgrade() -> None:
    """Drop the tables."""
    for name, table, _ in INDEXES:
        op.drop_index(name, table_name=table)
    op.drop_table("fair_use_measures")
    op.drop_table("fair_use_refusals")
