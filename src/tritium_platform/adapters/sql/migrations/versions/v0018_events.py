"""What events say beside their quantity: the device, all dimensions as they were said, when they arrived."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; what is there already has none of it."""
    op.add_column(
        "usage_records", sa.Column("device", sa.String(length=200), nullable=False, server_default="")
    )
    op.add_column("usage_records", sa.Column("dimensions", sa.Text(), nullable=True))
    op.add_column("usage_records", sa.Column("received_at", UtcDateTime(), nullable=True))


def downgrade() -> None:
    """Drop them."""
    for name in ("received_at", "dimensions", "device"):
        op.drop_column("usage_records", name)
