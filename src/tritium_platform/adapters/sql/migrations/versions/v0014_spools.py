"""The positions of spools, and how much of a reservation is used up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and the column."""
    op.create_table(
        "spools",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spools")),
    )
    with op.batch_alter_table("reservations") as table:
        table.add_column(sa.Column("used", sa.BigInteger(), nullable=False, server_default="0"))
        table.create_check_constraint(
            op.f("ck_reservations_used_within_amount"), "used >= 0 AND used <= amount"
        )


def downgrade() -> None:
    """Drop them."""
    with op.batch_alter_table("reservations") as table:
        table.drop_constraint(op.f("ck_reservations_used_within_amount"), type_="check")
        table.drop_column("used")
    op.drop_table("spools")
