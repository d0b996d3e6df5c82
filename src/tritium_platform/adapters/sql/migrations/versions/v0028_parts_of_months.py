"""A line of an invoice knows which part of its month it is about, where the plan changes within the month."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

COLUMNS = ("starts_at", "ends_at")


def upgrade() -> None:
    """Add the columns; the lines that are there are about whole months."""
    for name in COLUMNS:
        op.add_column("invoice_lines", sa.Column(name, UtcDateTime(), nullable=True))


def downgrade() -> None:
    """Take the columns away."""
    for name in COLUMNS:
        op.drop_column("invoice_lines", name)
