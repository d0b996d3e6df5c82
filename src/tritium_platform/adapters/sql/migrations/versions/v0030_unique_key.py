"""The key of a use begins with the time of its id, where the id has one: what comes now lies together.

A gateway of an older release, which would look for keys of the old kind, does not find their column, and
counts nothing.
"""

from __future__ import annotations

import re
from typing import Any

from alembic import op

from tritium_platform.adapters.sql.migrations.versions.v0027_key_digest import DIGEST, spelled_digest

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

OLD = "uq_usage_records_key_digest"
NEW = "uq_usage_records_unique_key"
TIMED = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-"
# What `_spelled` computes; `DIGEST` in hexadecimal has hyphens.
KEY = f"""
    CASE WHEN event_id COLLATE "C" ~ '^{TIMED}' THEN CAST(
        substr(event_id, 1, 8) || substr(event_id, 10, 4)
        || substr(replace(CAST({DIGEST} AS text), '-', ''), 1, 20)
    AS uuid) ELSE {DIGEST} END
"""


def upgrade() -> None:
    """Write the table anew, once; nobody writes uses meanwhile."""
    _change(("key_digest", "unique_key"), constraints=(OLD, NEW), computed=KEY, spelled=_spelled)


def downgrade() -> None:
    """Make the key as it was."""
    _change(("unique_key", "key_digest"), constraints=(NEW, OLD), computed=DIGEST, spelled=spelled_digest)


def _change(columns: tuple[str, str], *, constraints: tuple[str, str], computed: str, spelled: Any) -> None:
    """Compute every key and give the column and its constraint their second names."""
    (before, after), (former, new) = columns, constraints
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE usage_records ALTER COLUMN {before} TYPE uuid USING {computed}")
        op.execute(f"ALTER TABLE usage_records RENAME COLUMN {before} TO {after}")
        op.execute(f"ALTER TABLE usage_records RENAME CONSTRAINT {former} TO {new}")
        return
    driver: Any = op.get_bind().connection.dbapi_connection
    driver.create_function("tritium_unique_key", 3, spelled, deterministic=True)
    op.execute(f"UPDATE usage_records SET {before} = tritium_unique_key(tenant_id, source, event_id)")  # noqa: S608
    with op.batch_alter_table("usage_records") as table:
        table.drop_constraint(former, type_="unique")
        table.alter_column(before, new_column_name=after)
        table.create_unique_constraint(new, [before])  # which has its new name only afterwards


def _spelled(tenant_id: str, source: str, event_id: str) -> str:
    """Return a key as SQLite keeps it."""
    digest = spelled_digest(tenant_id, source, event_id)
    return event_id[:8] + event_id[9:13] + digest[:20] if re.match(TIMED, event_id) else digest
