"""Which deployments stay in memory."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what is deployed already is not pinned."""
    op.add_column(
        "deployments", sa.Column("is_pinned", sa.Boolean(), nullable=False, server_default=sa.false())
    )


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("deployments", "is_pinned")
