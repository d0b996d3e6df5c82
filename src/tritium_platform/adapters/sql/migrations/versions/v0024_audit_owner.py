"""Which audit log the intents of this database go into: one, for ever the same unless an operator says so."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; the first server that opens the database fills it."""
    op.create_table(
        "audit_owner",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("log_id", sa.Uuid(), nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("bound_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_owner_only_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_owner")),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("audit_owner")
