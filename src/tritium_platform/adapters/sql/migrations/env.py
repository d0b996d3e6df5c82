"""What alembic runs: the connection comes from the caller, so that no file holds a database's address."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from tritium_platform.adapters.sql.schema import metadata

# Two processes may start at once (SQLite takes its write lock anyway). Any number names the lock.
MIGRATION_LOCK = 7_118_158

connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":
    connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
