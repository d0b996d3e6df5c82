"""Health scores that are kept, and written once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "health_scores",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("as_of", UtcDateTime(), nullable=False),
        sa.Column("definition", sa.Integer(), nullable=False),
        sa.Column("score", sa.Integer(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "as_of", name=op.f("pk_health_scores")),
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER health_scores_stay BEFORE UPDATE ON health_scores "
            "BEGIN SELECT RAISE(ABORT, 'health_scores is written once'); END"
        )
    else:
        op.execute(
            "CREATE TRIGGER health_scores_stay BEFORE UPDATE ON health_scores "
            "FOR EACH ROW EXECUTE FUNCTION tritium_refuse()"
        )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("health_scores")
