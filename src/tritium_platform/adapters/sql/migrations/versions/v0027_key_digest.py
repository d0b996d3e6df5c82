"""A use is unique by a digest of its key: 16 bytes in the place of a hundred in the largest index.

Every use is looked up in this index and put into it, in random order, and it must fit into memory.
"""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from alembic import op

from tritium_platform.metering.model import key_prefix

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

OLD = "uq_usage_records_tenant_id_source_event_id"
NEW = "uq_usage_records_key_digest"
# What `spelled_digest` computes.
DIGEST = """
    encode(substr(sha256(
        uuid_send(tenant_id) || int2send(CAST(octet_length(convert_to(source, 'UTF8')) AS smallint))
        || convert_to(source, 'UTF8') || convert_to(event_id, 'UTF8')
    ), 1, 16), 'hex')::uuid
"""


def upgrade() -> None:
    """Write the table anew, once; nobody writes uses meanwhile."""
    op.add_column("usage_records", sa.Column("key_digest", sa.Uuid(), nullable=True))
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"ALTER TABLE usage_records ALTER COLUMN key_digest TYPE uuid USING {DIGEST}, "
            f"ALTER COLUMN key_digest SET NOT NULL, DROP CONSTRAINT {OLD}, "
            f"ADD CONSTRAINT {NEW} UNIQUE (key_digest)"
        )
        return
    driver: Any = op.get_bind().connection.dbapi_connection
    driver.create_function("tritium_key_digest", 3, spelled_digest, deterministic=True)
    op.execute("UPDATE usage_records SET key_digest = tritium_key_digest(tenant_id, source, event_id)")
    with op.batch_alter_table("usage_records") as table:
        table.alter_column("key_digest", existing_type=sa.Uuid(), nullable=False)
        table.drop_constraint(OLD, type_="unique")
        table.create_unique_constraint(NEW, ["key_digest"])


def downgrade() -> None:
    """Make the key as it was."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "ALTER TABLE usage_records DROP COLUMN key_digest, "
            f"ADD CONSTRAINT {OLD} UNIQUE (tenant_id, event_id, source)"
        )
        return
    with op.batch_alter_table("usage_records") as table:
        table.drop_constraint(NEW, type_="unique")
        table.drop_column("key_digest")
        table.create_unique_constraint(OLD, ["tenant_id", "source", "event_id"])


def spelled_digest(tenant_id: str, source: str, event_id: str) -> str:
    """Return a digest as SQLite keeps it."""
    key = key_prefix(tenant_id=UUID(tenant_id), source=source) + event_id.encode()
    return hashlib.sha256(key).hexdigest()[:32]
