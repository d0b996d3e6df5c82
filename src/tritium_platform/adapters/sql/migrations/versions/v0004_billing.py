"""The tables of billing: price versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "price_versions",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("valid_from", UtcDateTime(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_price_versions")),
        sa.UniqueConstraint("valid_from", name=op.f("uq_price_versions_valid_from")),
    )
    # ### end Alembic commands ###


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("price_versions")
    # ### end Alembic commands ###
