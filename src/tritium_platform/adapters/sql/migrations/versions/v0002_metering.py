"""The tables of metering: usage records."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "usage_records",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.String(length=200), nullable=False),
        sa.Column("event_id", sa.String(length=200), nullable=False),
        sa.Column("operation", sa.String(length=40), nullable=False),
        sa.Column("tier", sa.String(length=20), nullable=False),
        sa.Column("outcome", sa.String(length=200), nullable=False),
        sa.Column("model", sa.String(length=400), nullable=False),
        sa.Column("key_id", sa.String(length=12), nullable=True),
        sa.Column("occurred_at", UtcDateTime(), nullable=False),
        sa.Column("body_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("embedding_tokens", sa.BigInteger(), nullable=False),
        sa.Column("quantized_parameters", sa.BigInteger(), nullable=False),
        sa.Column("compute_time_ms", sa.BigInteger(), nullable=False),
        sa.Column("memory_peak_bytes", sa.BigInteger(), nullable=False),
        sa.Column("storage_bytes", sa.BigInteger(), nullable=False),
        sa.Column("network_bytes_transferred", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "compute_time_ms >= 0", name=op.f("ck_usage_records_compute_time_ms_not_negative")
        ),
        sa.CheckConstraint(
            "embedding_tokens >= 0", name=op.f("ck_usage_records_embedding_tokens_not_negative")
        ),
        sa.CheckConstraint("input_tokens >= 0", name=op.f("ck_usage_records_input_tokens_not_negative")),
        sa.CheckConstraint(
            "memory_peak_bytes >= 0", name=op.f("ck_usage_records_memory_peak_bytes_not_negative")
        ),
        sa.CheckConstraint(
            "network_bytes_transferred >= 0",
            name=op.f("ck_usage_records_network_bytes_transferred_not_negative"),
        ),
        sa.CheckConstraint("output_tokens >= 0", name=op.f("ck_usage_records_output_tokens_not_negative")),
        sa.CheckConstraint(
            "quantized_parameters >= 0", name=op.f("ck_usage_records_quantized_parameters_not_negative")
        ),
        sa.CheckConstraint("storage_bytes >= 0", name=op.f("ck_usage_records_storage_bytes_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_records")),
        sa.UniqueConstraint(
            "tenant_id", "source", "event_id", name=op.f("uq_usage_records_tenant_id_source_event_id")
        ),
    )
    op.create_index(
        "ix_usage_records_tenant_id_occurred_at", "usage_records", ["tenant_id", "occurred_at"], unique=False
    )
    # ### end Alembic commands ###


def downgrade() -> None:
    """Drop the tables."""
    op.drop_index("ix_usage_records_tenant_id_occurred_at", table_name="usage_records")
    op.drop_table("usage_records")
    # ### end Alembic commands ###
