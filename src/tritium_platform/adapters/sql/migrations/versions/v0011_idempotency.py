"""The table of idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_idempotency_keys_tenant_id_expires_at": ["tenant_id", "expires_at"],
    "ix_idempotency_keys_expires_at": ["expires_at"],
}


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.String(length=12), nullable=False),
        sa.Column("key_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("owner", sa.Uuid(), nullable=False),
        sa.Column("lease_until", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idempotency_keys")),
        sa.UniqueConstraint(
            "tenant_id", "key_id", "key_digest", name=op.f("uq_idempotency_keys_tenant_id_key_id_key_digest")
        ),
    )
    for name, columns in INDEXES.items():
        op.create_index(name, "idempotency_keys", columns, unique=False)


def downgrade() -> None:
    """Drop the table."""
    for name in INDEXES:
        op.drop_index(name, table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
