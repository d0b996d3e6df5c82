"""Brings a database to the schema of this release; the migrations travel inside the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from tritium_platform.adapters.sql.database import (
    WRITE_OPTION,
    prepare_postgresql,
    prepare_sqlite,
    require_supported,
)
from tritium_platform.errors import PlatformError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(database_url: str) -> None:
    """Upgrade a database to the newest schema; an up-to-date one is left alone.

    Raises:
        ValidationError: the URL is not supported.
        PlatformError: the database does not answer.
    """
    _run(database_url, revision="head", is_upgrade=True)


def downgrade(database_url: str, *, revision: str) -> None:
    """Take a database back to a revision; `base` empties it."""
    _run(database_url, revision=revision, is_upgrade=False)


def synchronous_engine(database_url: str) -> Engine:
    """Return an engine without a loop for the same database, as alembic needs it."""
    url = make_url(database_url)
    if not require_supported(database_url):
        engine = create_engine(url, poolclass=NullPool)
        prepare_postgresql(engine)
        return engine
    Path(url.database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url.set(drivername="sqlite"), poolclass=NullPool, execution_options={WRITE_OPTION: True}
    )
    prepare_sqlite(engine)
    return engine


def _let_tables_be_replaced(connection: Connection) -> None:
    """Let a table be dropped to which others point: SQLite changes one by writing it anew.

    Before the transaction, for within one the pragma does nothing. Who connects later is held to the keys.
    """
    driver: Any = connection.connection.dbapi_connection
    driver.execute("PRAGMA foreign_keys = OFF")


def _run(database_url: str, *, revision: str, is_upgrade: bool) -> None:
    # Here, because importing it takes a third of a second and workers never migrate.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    engine = synchronous_engine(database_url)
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                _let_tables_be_replaced(connection)
            with connection.begin():
                config = Config()
                config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
                config.attributes["connection"] = connection
                (command.upgrade if is_upgrade else command.downgrade)(config, revision)
    except OperationalError as error:
        reason = str(error.orig).splitlines()[0]
        raise PlatformError(f"The database cannot be migrated: {reason}.") from error
    finally:
        engine.dispose()
