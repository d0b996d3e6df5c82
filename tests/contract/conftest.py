"""One set of books per kind of database: what memory promises, SQLite and PostgreSQL promise too."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import make_url, text

from tritium_platform.adapters.memory.alias_store import MemoryAliasStore
from tritium_platform.adapters.memory.audit_outbox import MemoryAuditOutbox
from tritium_platform.adapters.memory.batch_store import MemoryBatchStore
from tritium_platform.adapters.memory.billing_store import MemoryPriceStore
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.event_store import MemoryEventStore
from tritium_platform.adapters.memory.facts_reader import MemoryFactsReader
from tritium_platform.adapters.memory.file_store import MemoryFileStore
from tritium_platform.adapters.memory.health_store import MemoryOutcomeStore
from tritium_platform.adapters.memory.invoice_store import MemoryBilledUsageStore, MemoryInvoiceStore
from tritium_platform.adapters.memory.job_store import MemoryJobStore
from tritium_platform.adapters.memory.metering_store import MemoryUsageStore
from tritium_platform.adapters.memory.model_store import MemoryDeploymentStore, MemoryModelStore
from tritium_platform.adapters.memory.money_stores import (
    MemoryCreditStore,
    MemoryJournalStore,
    MemoryOperationStore,
    MemoryPlanStore,
)
from tritium_platform.adapters.memory.payment_store import MemoryNoticeStore, MemoryPaymentStore
from tritium_platform.adapters.memory.quota_store import MemoryReservationStore
from tritium_platform.adapters.memory.score_store import MemoryScoreStore
from tritium_platform.adapters.memory.tenancy_store import MemoryTenantStore
from tritium_platform.adapters.memory.usage_series import MemoryUsageSeries
from tritium_platform.adapters.sql.alias_store import SqlAliasStore
from tritium_platform.adapters.sql.audit_outbox import SqlAuditOutbox
from tritium_platform.adapters.sql.batch_store import SqlBatchStore
from tritium_platform.adapters.sql.billed_usage_store import SqlBilledUsageStore
from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.credit_store import SqlCreditStore
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.event_store import SqlEventStore
from tritium_platform.adapters.sql.facts_reader import SqlFactsReader
from tritium_platform.adapters.sql.file_store import SqlFileStore
from tritium_platform.adapters.sql.health_store import SqlOutcomeStore
from tritium_platform.adapters.sql.invoice_store import SqlInvoiceStore
from tritium_platform.adapters.sql.job_store import SqlJobStore
from tritium_platform.adapters.sql.journal_store import SqlJournalStore
from tritium_platform.adapters.sql.metering_store import SqlUsageStore
from tritium_platform.adapters.sql.migrate import migrate, synchronous_engine
from tritium_platform.adapters.sql.model_store import SqlDeploymentStore, SqlModelStore
from tritium_platform.adapters.sql.notice_store import SqlNoticeStore
from tritium_platform.adapters.sql.payment_store import SqlPaymentStore
from tritium_platform.adapters.sql.plan_store import SqlOperationStore, SqlPlanStore
from tritium_platform.adapters.sql.quota_store import SqlReservationStore
from tritium_platform.adapters.sql.schema import metadata
from tritium_platform.adapters.sql.score_store import SqlScoreStore
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.adapters.sql.usage_series import SqlUsageSeries
from tritium_platform.billing.books import BillingBooks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tritium_platform.audit.service import AuditOutbox
    from tritium_platform.billing.invoicing import PriceStore
    from tritium_platform.billing.payment_store import NoticeStore
    from tritium_platform.billing.plans import PlanStore
    from tritium_platform.insight.analytics import UsageSeriesReader
    from tritium_platform.insight.facts import FactsReader
    from tritium_platform.insight.health import OutcomeStore
    from tritium_platform.insight.scores import ScoreStore
    from tritium_platform.metering.event_writer import EventStore
    from tritium_platform.metering.service import UsageStore
    from tritium_platform.quotas.reservations import ReservationStore
    from tritium_platform.serving.aliases import AliasStore
    from tritium_platform.serving.batches import BatchStore
    from tritium_platform.serving.deployments import DeploymentStore
    from tritium_platform.serving.files import FileStore
    from tritium_platform.serving.quantization import JobStore
    from tritium_platform.serving.registry import ModelStore
    from tritium_platform.tenancy.service import TenantStore
    from tritium_platform.values import UnitOfWork

# What tests share beside fixtures: folders of tests are not packages.
SHARED = {"tritium_scoring_oracle": "scoring.py", "tritium_event_gateway": "event_gateway.py"}
for name, file in SHARED.items():
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(file))
        if spec is None or spec.loader is None:
            raise ImportError(name)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])

SERVER = os.environ.get("TRITIUM_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres")
# Policies never bind a superuser: what runs as one proves nothing about them.
OWNER = "tritium_test"
OWNER_EXISTS = f"""DO $$ BEGIN CREATE ROLE {OWNER} LOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"""


@dataclass(frozen=True)
class Books:
    """The stores of every room over one database."""

    database: MemoryDatabase | Database
    unit_of_work: UnitOfWork
    tenants: TenantStore
    usage: UsageStore
    events: EventStore
    reservations: ReservationStore
    prices: PriceStore
    outcomes: OutcomeStore
    facts: FactsReader
    scores: ScoreStore
    series: UsageSeriesReader
    outbox: AuditOutbox
    models: ModelStore
    deployments: DeploymentStore
    aliases: AliasStore
    jobs: JobStore
    files: FileStore
    batches: BatchStore
    plans: PlanStore
    notices: NoticeStore
    money: BillingBooks


def books_in_memory() -> Books:
    database = MemoryDatabase()
    return Books(
        database=database,
        unit_of_work=database.unit_of_work,
        tenants=MemoryTenantStore(database),
        usage=MemoryUsageStore(database),
        events=MemoryEventStore(database),
        reservations=MemoryReservationStore(database),
        prices=MemoryPriceStore(database),
        outcomes=MemoryOutcomeStore(database),
        facts=MemoryFactsReader(database),
        scores=MemoryScoreStore(database),
        series=MemoryUsageSeries(database),
        outbox=MemoryAuditOutbox(database),
        models=MemoryModelStore(database),
        deployments=MemoryDeploymentStore(database),
        aliases=MemoryAliasStore(database),
        jobs=MemoryJobStore(database),
        files=MemoryFileStore(database),
        batches=MemoryBatchStore(database),
        plans=MemoryPlanStore(database),
        notices=MemoryNoticeStore(database),
        money=BillingBooks(
            unit_of_work=database.unit_of_work,
            invoices=MemoryInvoiceStore(database),
            usage=MemoryBilledUsageStore(database),
            journal=MemoryJournalStore(database),
            credits=MemoryCreditStore(database),
            operations=MemoryOperationStore(database),
            payments=MemoryPaymentStore(database),
            outbox=MemoryAuditOutbox(database),
            clock=ManualClock(),
        ),
    )


def books_in_sql(database: Database) -> Books:
    return Books(
        database=database,
        unit_of_work=database.unit_of_work,
        tenants=SqlTenantStore(database),
        usage=SqlUsageStore(database),
        events=SqlEventStore(database),
        reservations=SqlReservationStore(database),
        prices=SqlPriceStore(database),
        outcomes=SqlOutcomeStore(database),
        facts=SqlFactsReader(database),
        scores=SqlScoreStore(database),
        series=SqlUsageSeries(database),
        outbox=SqlAuditOutbox(database),
        models=SqlModelStore(database),
        deployments=SqlDeploymentStore(database),
        aliases=SqlAliasStore(database),
        jobs=SqlJobStore(database),
        files=SqlFileStore(database),
        batches=SqlBatchStore(database),
        plans=SqlPlanStore(database),
        notices=SqlNoticeStore(database),
        money=BillingBooks(
            unit_of_work=database.unit_of_work,
            invoices=SqlInvoiceStore(database),
            usage=SqlBilledUsageStore(database),
            journal=SqlJournalStore(database),
            credits=SqlCreditStore(database),
            operations=SqlOperationStore(database),
            payments=SqlPaymentStore(database),
            outbox=SqlAuditOutbox(database),
            clock=ManualClock(),
        ),
    )


def create_scratch_database(*, copy_of: str = "template1") -> str:
    """Create a PostgreSQL database, owned by a role that policies bind; skip if there is no server."""
    server = make_url(SERVER)
    name = f"tritium_test_{secrets.token_hex(6)}"
    try:
        with psycopg.connect(plain_url(SERVER), autocommit=True, connect_timeout=3) as connection:
            connection.execute(OWNER_EXISTS)
            connection.execute(f'CREATE DATABASE "{name}" OWNER {OWNER} TEMPLATE "{copy_of}"')
            # A test looks at what is committed, not at what a power cut leaves: nobody waits for the disk.
            connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    except psycopg.OperationalError as error:
        pytest.skip(f"PostgreSQL does not answer at {server.host}:{server.port}: {error}")
    return server.set(username=OWNER, database=name).render_as_string(hide_password=False)


def as_superuser(url: str) -> str:
    """Return the URL of a scratch database for whom nothing is refused."""
    return plain_url(
        make_url(SERVER).set(database=make_url(url).database).render_as_string(hide_password=False)
    )


def drop_scratch_database(url: str) -> None:
    with psycopg.connect(plain_url(SERVER), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{make_url(url).database}" WITH (FORCE)')


def plain_url(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture(autouse=True)
async def no_thread_is_left() -> AsyncIterator[None]:
    """Wait for the threads of aiosqlite: one whose connection failed still reports to the loop."""
    before = set(threading.enumerate())
    yield
    for _ in range(200):
        left = [each for each in set(threading.enumerate()) - before if "_connection_worker" in each.name]
        if not left:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{len(left)} database connections are still open")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without a table."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'new' / 'directory' / 'books.sqlite3'}"
        return
    url = create_scratch_database()
    yield url
    drop_scratch_database(url)


@pytest.fixture(scope="session")
def postgresql_template() -> Iterator[str]:
    """The name of a migrated PostgreSQL database that nobody connects to, so that it can be copied."""
    url = create_scratch_database()
    migrate(url)
    yield make_url(url).database or ""
    drop_scratch_database(url)


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql_template: str) -> Iterator[str]:
    url = create_scratch_database(copy_of=postgresql_template)
    yield url
    drop_scratch_database(url)


@pytest.fixture
def scratch_postgresql(postgresql_template: str) -> Iterator[str]:
    """The URL of a migrated PostgreSQL database of the test's own, as its owner."""
    url = create_scratch_database(copy_of=postgresql_template)
    yield url
    drop_scratch_database(url)


@pytest.fixture
def superuser_url() -> Callable[[str], str]:
    """Makes of the URL of a scratch database that of a superuser."""
    return as_superuser


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("template") / "books.sqlite3"
    migrate(f"sqlite+aiosqlite:///{path}")
    return path.read_bytes()


def empty_database_url(kind: str, *, request: pytest.FixtureRequest, directory: Path) -> str:
    """Return the URL of a migrated and empty database."""
    if kind == "sqlite":
        path = directory / "books.sqlite3"
        path.write_bytes(request.getfixturevalue("migrated_sqlite"))
        return f"sqlite+aiosqlite:///{path}"
    url: str = request.getfixturevalue("migrated_postgresql")
    # To truncate a table makes new files of it and its indexes: for all of them that takes a second and more.
    delete = ";".join(f'DELETE FROM "{table}"' for table in metadata.tables)
    with psycopg.connect(as_superuser(url), autocommit=True) as connection:
        # What is written once refuses this, too: only who owns the database can switch that off.
        connection.execute("SET session_replication_role = replica")
        connection.execute(delete)
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a migrated and empty database."""
    return empty_database_url(request.param, request=request, directory=tmp_path)


@pytest.fixture
def sabotage(sql_url: str) -> Callable[[str], None]:
    """Changes one row as nobody may: with every trigger and foreign key out of the way."""

    def change(statement: str) -> None:
        is_sqlite = sql_url.startswith("sqlite")
        url = (
            sql_url if is_sqlite else as_superuser(sql_url).replace("postgresql://", "postgresql+psycopg://")
        )
        engine = synchronous_engine(url)
        with engine.connect() as connection:
            if is_sqlite:
                names = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
                connection.execute(text("COMMIT"))  # else the next line does nothing
                connection.execute(text("PRAGMA foreign_keys = OFF"))
                for (name,) in names.all():
                    connection.execute(text(f"DROP TRIGGER {name}"))
            else:
                connection.execute(text("SET session_replication_role = replica"))
            count = connection.execute(text(statement)).rowcount
            connection.commit()
        engine.dispose()
        assert count == 1, statement

    return change


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def books_kind(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """The URL of an empty database, None for memory."""
    if request.param == "memory":
        return None
    return empty_database_url(request.param, request=request, directory=tmp_path)


@pytest.fixture
async def books(books_kind: str | None) -> AsyncIterator[Books]:
    """Books in memory, in SQLite and in PostgreSQL."""
    if books_kind is None:
        yield books_in_memory()
        return
    database = Database(books_kind)
    yield books_in_sql(database)
    await database.close()


@pytest.fixture
async def sql_books(sql_url: str) -> AsyncIterator[Books]:
    """Books in SQLite and in PostgreSQL."""
    database = Database(sql_url)
    yield books_in_sql(database)
    await database.close()


@pytest.fixture
def books_in() -> Callable[[Database], Books]:
    """Makes books over a database, for tests that have a loop of their own."""
    return books_in_sql


@pytest.fixture
def memory_books() -> Callable[[], Books]:
    """Makes empty books in memory."""
    return books_in_memory


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
