"""The unique key of the usage records on PostgreSQL: compared byte by byte, what differs most first.

Every use is looked up in this index and put into it. Ids differ where sources seldom do, and the order of a
language costs more than that of bytes. SQLite compares bytes already, and keeps the key as it made it.
"""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

KEY = "uq_usage_records_tenant_id_source_event_id"


def upgrade() -> None:
    """Make the index anew; nobody writes uses meanwhile."""
    _arrange(columns="tenant_id, event_id, source", collation='"C"')


def downgrade() -> None:
    """Make it as it was."""
    _arrange(columns="tenant_id, source, event_id", collation='"default"')


def _arrange(*, columns: str, collation: str) -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    # In one statement: uses of one key must at no moment be two.
    op.execute(
        f"ALTER TABLE usage_records DROP CONSTRAINT {KEY}, "
        f"ALTER COLUMN source TYPE varchar(200) COLLATE {collation}, "
        f"ALTER COLUMN event_id TYPE varchar(200) COLLATE {collation}, "
        f"ADD CONSTRAINT {KEY} UNIQUE ({columns})"
    )
