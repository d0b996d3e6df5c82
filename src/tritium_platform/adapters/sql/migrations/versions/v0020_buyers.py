"""Who a tenant is on its invoices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "buyers",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_buyers")),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("buyers")
