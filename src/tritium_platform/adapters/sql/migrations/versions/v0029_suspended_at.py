"""A suspended tenant knows since when it is: what it sent before counts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of those that are suspended nobody knows since when."""
    op.add_column("tenants", sa.Column("suspended_at", UtcDateTime(), nullable=True))


def downgrade() -> None:
    """Take the column away."""
    op.drop_column("tenants", "suspended_at")
