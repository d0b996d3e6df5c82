"""Connections and transactions: the same promises on SQLite and on PostgreSQL.

A store asks for `read()` or `write()` and gets the connection of the unit of work around it, or a transaction
of its own when there is none. On PostgreSQL a transaction begins with for whom it acts (`tenancy.acting`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import event, func, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import create_async_engine

from tritium_platform.errors import (
    InsufficientMemoryError,
    OverloadedError,
    PlatformError,
    Recovery,
    ResourceError,
    ValidationError,
)
from tritium_platform.tenancy.acting import acting_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from sqlalchemy import Connection, Engine, Table
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_log = structlog.get_logger(__name__)
BUSY_SECONDS = 10
# PostgreSQL's class 53; too many connections are no matter of how much one of them asks for.
INSUFFICIENT_RESOURCES, DISK_FULL, TOO_MANY_CONNECTIONS = "53", "53100", "53300"
# A server that says nothing would be waited for as long as TCP does: minutes. In seconds; `tcp_user_timeout`
# is in milliseconds.
SILENCE = {
    "connect_timeout": 5,
    "tcp_user_timeout": 15_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
READ_ONLY = "25006"  # as a standby is, or a server whose primary is somewhere else now
NO_MEMORY = {sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR_NOMEM}
WRITE_OPTION = "tritium_write"
# What the policies of the tables ask; a connection that does not set it sees no row of any tenant.
ACTING_SETTING = "tritium.tenant"


@dataclass(slots=True)
class _Transaction:
    database: Database
    connection: AsyncConnection
    is_open: bool = True
    can_write: bool = True


_current: ContextVar[_Transaction | None] = ContextVar("tritium_transaction", default=None)


class Database:
    """A database; close it with `await database.close()`.

    Args:
        url: `sqlite+aiosqlite:///path` or `postgresql+psycopg://...`.
        pool_size: connections kept open.

    Raises:
        ValidationError: the URL is not one of these.
    """

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.is_sqlite = require_supported(url)
        arguments: dict[str, Any] = {} if self.is_sqlite else _postgresql_arguments(url)
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=BUSY_SECONDS,
            hide_parameters=True,  # an error that is logged must not bring a row with it
            **arguments,
        )
        # What is on its way into the books is waited for before they are read; see `read_books`.
        self.settle_first: Callable[[], Awaitable[None]] | None = None
        # SQLite has one writer at a time: waiting here is fair and costs nothing, waiting there is polling.
        self._writer = asyncio.Lock() if self.is_sqlite else None
        if self.is_sqlite:
            prepare_sqlite(self.engine.sync_engine)
        else:
            prepare_postgresql(self.engine.sync_engine)

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[None]:
        """Let everything written inside commit together or not at all."""
        async with self.write():
            yield

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that may write."""
        outer = self._joined()
        if outer is not None:
            self._require_writable()
            yield outer
            return
        queue: AbstractAsyncContextManager[None] = self._writer or nullcontext()
        async with queue:
            with _translated():
                async with self._begin() as connection:
                    with _joining(_Transaction(self, connection)):
                        yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection to read with; inside a unit of work it sees what was written there."""
        outer = self._joined()
        if outer is not None:
            yield outer
            return
        with _translated():
            async with self.engine.connect() as connection:
                await self._say_for_whom(connection)
                yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """Let everything read inside be of one moment, with all that a client was told of; nobody waits.

        PostgreSQL reads in REPEATABLE READ; a reader of SQLite's WAL sees one moment by itself.
        """
        if self.settle_first is not None:
            await self.settle_first()
        options: dict[str, Any] = (
            {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        )
        with _translated():
            async with self.engine.connect() as plain:
                connection = await plain.execution_options(**options)
                async with connection.begin():
                    await self._say_for_whom(connection)
                    with _joining(_Transaction(self, connection, can_write=False)):
                        yield

    @asynccontextmanager
    async def read_books(self) -> AsyncIterator[AsyncConnection]:
        """As `read`, with everything in the books that a client was told of before."""
        if self.settle_first is not None and self._joined() is None:
            await self.settle_first()
        async with self.read() as connection:
            yield connection

    def insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """Return an INSERT that knows ON CONFLICT: an error instead would end the whole transaction."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        async with self.engine.connect() as plain:
            connection = await plain.execution_options(**{WRITE_OPTION: True})
            async with connection.begin():
                await self._say_for_whom(connection)
                yield connection

    async def _say_for_whom(self, connection: AsyncConnection) -> None:
        """Narrow a transaction to the tenant that is acted for; it ends with the transaction."""
        tenant_id = acting_tenant()
        if tenant_id is not None and not self.is_sqlite:
            await connection.execute(select(func.set_config(ACTING_SETTING, str(tenant_id), True)))

    def _require_writable(self) -> None:
        transaction = _current.get()
        if transaction is not None and not transaction.can_write:
            raise PlatformError("Nothing is written inside a snapshot.")

    def _joined(self) -> AsyncConnection | None:
        transaction = _current.get()
        if transaction is not None and transaction.is_open and transaction.database is self:
            return transaction.connection
        return None


@contextmanager
def _joining(transaction: _Transaction) -> Iterator[None]:
    """Let the stores join a transaction while it lasts."""
    around = _current.get()
    _current.set(transaction)
    try:
        yield
    finally:
        transaction.is_open = False
        _current.set(around)


def require_supported(url: str) -> bool:
    """Return whether a supported database URL means SQLite; ValidationError if it is not supported."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValidationError("The database URL cannot be read.", field="database_url") from error
    if parsed.drivername == "postgresql+psycopg":
        return False
    if parsed.drivername == "sqlite+aiosqlite" and parsed.database not in {None, "", ":memory:"}:
        return True
    raise ValidationError(
        "The database URL must be sqlite+aiosqlite:///PATH or postgresql+psycopg://...", field="database_url"
    )


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what a driver says about an unreachable, busy or full database into errors of the tree."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        origin = error.orig if isinstance(error, DBAPIError) else None
        cause = str(origin or "no connection is free").partition("\n")[0]
        exhausted = _exhausted(origin)
        if exhausted is not None:
            _log.error("database_exhausted", reason=cause)
            raise exhausted from error
        raise _away(cause) from error
    except MemoryError as error:  # so SQLite's driver says it
        raise InsufficientMemoryError("There is too little memory for so much at once.") from error
    except DatabaseError as error:
        if getattr(error.orig, "sqlstate", None) == READ_ONLY:
            raise _away(str(error.orig)) from error
        if type(error) is DatabaseError:  # its subclasses are about a statement, it is about the file
            raise PlatformError(f"The database cannot be used: {error.orig}.") from error
        raise


def _away(cause: str) -> OverloadedError:
    # The reason names hosts and users of ours; it is the operator's, and the answer goes to a tenant.
    _log.warning("database_away", reason=cause)
    return OverloadedError("The database does not answer: try again in a moment.")


def _exhausted(cause: BaseException | None) -> ResourceError | None:
    """Return what a driver's error says of a resource that is used up; None if it says nothing of one."""
    state, code = getattr(cause, "sqlstate", None) or "", getattr(cause, "sqlite_errorcode", None)
    if state == DISK_FULL or code == sqlite3.SQLITE_FULL or "No space left" in str(cause):
        return ResourceError(
            "The disk of the database is full: make room and try again.", recovery=Recovery.CONTACT_OPERATOR
        )
    is_memory = state.startswith(INSUFFICIENT_RESOURCES) and state != TOO_MANY_CONNECTIONS
    if is_memory or code in NO_MEMORY:
        return InsufficientMemoryError("The database has too little memory for so much at once.")
    return None


def _postgresql_arguments(url: str) -> dict[str, Any]:
    """Return what keeps a server that says nothing from being waited for; what the URL says counts more."""
    said = make_url(url).query
    timeouts = {name: value for name, value in SILENCE.items() if name not in said}
    return {"pool_pre_ping": True, "connect_args": timeouts}


def prepare_postgresql(engine: Engine) -> None:
    """Let every connection say that it acts for the service: the rows of all tenants are its own."""
    event.listen(engine, "connect", _act_for_the_service)


def _act_for_the_service(dbapi_connection: Any, _record: object) -> None:
    cursor = dbapi_connection.cursor()
    cursor.execute(f"SET {ACTING_SETTING} = '*'")
    cursor.close()
    dbapi_connection.commit()  # what is set in a transaction that is rolled back was never set


def prepare_sqlite(engine: Engine) -> None:
    """Let an engine begin SQLite's transactions itself (the driver would do it too late), and safely."""
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)


def _configure_sqlite(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.isolation_level = None
    try:
        cursor = dbapi_connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # an acknowledged usage record survives a power cut
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()
    except BaseException:
        dbapi_connection.close()  # nobody else will: the pool has not seen it yet
        raise


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at the start: a transaction that reads first and writes later could not get it."""
    will_write = connection.get_execution_options().get(WRITE_OPTION, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if will_write else "BEGIN")
