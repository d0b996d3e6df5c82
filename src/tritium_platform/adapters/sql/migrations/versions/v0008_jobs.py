"""The tables of jobs: quantization jobs and their layers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tritium_platform.adapters.sql.tables.base import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "quantization_jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("tier", sa.String(length=20), nullable=False),
        sa.Column("key_id", sa.String(length=12), nullable=False),
        sa.Column("source", sa.String(length=400), nullable=False),
        sa.Column("source_path", sa.Text(), nullable=False),
        sa.Column("model_name", sa.String(length=200), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("storage_reservation", sa.Uuid(), nullable=False),
        sa.Column("storage_bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("total_layers", sa.Integer(), nullable=True),
        sa.Column("error_code", sa.String(length=100), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_recovery", sa.String(length=40), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quantization_jobs")),
    )
    op.create_index("ix_quantization_jobs_state", "quantization_jobs", ["state"], unique=False)
    op.create_index(
        "ix_quantization_jobs_tenant_id_id", "quantization_jobs", ["tenant_id", "id"], unique=False
    )
    op.create_table(
        "quantization_layers",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=400), nullable=False),
        sa.Column("strategy", sa.String(length=40), nullable=False),
        sa.Column("planes", sa.Integer(), nullable=False),
        sa.Column("loss", sa.Float(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["quantization_jobs.id"], name=op.f("fk_quantization_layers_job_id_quantization_jobs")
        ),
        sa.PrimaryKeyConstraint("job_id", "index", name=op.f("pk_quantization_layers")),
    )
    # ### end Alembic commands ###


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("quantization_layers")
    op.drop_index("ix_quantization_jobs_tenant_id_id", table_name="quantization_jobs")
    op.drop_index("ix_quantization_jobs_state", table_name="quantization_jobs")
    op.drop_table("quantization_jobs")
    # ### end Alembic commands ###
