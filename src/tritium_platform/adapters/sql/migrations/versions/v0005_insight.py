"""The tables of insight: outcomes of requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "health_outcomes",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("hour", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("latency_bucket", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id", "hour", "kind", "latency_bucket", name=op.f("pk_health_outcomes")
        ),
    )
    # ### end Alembic commands ###


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("health_outcomes")
    # ### end Alembic commands ###
