"""What customers are to be told about invoices that could not be charged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.migrations.versions.v0023_row_security import ACTING, EVERYBODY, secure
from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; on PostgreSQL with its policy."""
    op.create_table(
        "dunning_notices",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column("attempt_number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name=op.f("fk_dunning_notices_invoice_id_invoices")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dunning_notices")),
        sa.UniqueConstraint(
            *("invoice_id", "attempt_number", "kind"),
            name=op.f("uq_dunning_notices_invoice_id_attempt_number_kind"),
        ),
    )
    op.create_index("ix_dunning_notices_tenant_id_id", "dunning_notices", ["tenant_id", "id"])
    if op.get_bind().dialect.name == "postgresql":
        secure("dunning_notices", f"{EVERYBODY} OR tenant_id::text = {ACTING}")


def downgrade() -> None:
    """Drop it."""
    op.drop_table("dunning_notices")
