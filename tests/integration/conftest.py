"""Platforms that run, for the tests of this folder."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

HARNESS = Path(__file__).resolve().parents[1] / "integration" / "harness.py"
SERVER = os.environ.get("TRITIUM_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres")
# Policies never bind a superuser: the platforms of these tests run as the owner of their database.
OWNER_EXISTS = """DO $$ BEGIN CREATE ROLE tritium_test LOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"""


def load_harness():
    """Load the harness once, by its path."""
    if "tritium_test_harness" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tritium_test_harness", HARNESS)
        module = importlib.util.module_from_spec(spec)
        sys.modules["tritium_test_harness"] = module
        spec.loader.exec_module(module)
    return sys.modules["tritium_test_harness"]


@pytest.fixture(scope="session")
def harness():
    """What starts platforms and asks them."""
    return load_harness()


@pytest.fixture(scope="module")
def running(tmp_path_factory, harness, scripture_llama_without_end, scripture_llama_with_tools):
    """A platform on SQLite that the tests of one file share."""
    roots = (harness.EXAMPLE_MODELS, scripture_llama_without_end, scripture_llama_with_tools)
    config = harness.platform_config(tmp_path_factory.mktemp("platform"), model_roots=roots)
    platform, stop = harness.serve(config)
    yield platform
    stop()


@contextlib.contextmanager
def scratch_database():
    """Make an empty PostgreSQL database and drop it; skips without a server."""
    server, name = SERVER.replace("+psycopg", ""), f"tritium_road_{secrets.token_hex(6)}"
    try:
        with psycopg.connect(server, autocommit=True, connect_timeout=3) as connection:
            connection.execute(OWNER_EXISTS)
            connection.execute(f'CREATE DATABASE "{name}" OWNER tritium_test')
            # What is killed is the platform, never PostgreSQL: nobody waits for the disk.
            connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    except psycopg.OperationalError as error:
        pytest.skip(f"PostgreSQL does not answer: {error}")
    yield make_url(SERVER).set(username="tritium_test", database=name).render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="module")
def postgresql_url():
    """The URL of a PostgreSQL database that the tests of one file share, empty at first."""
    with scratch_database() as url:
        yield url


@pytest.fixture
def postgresql_url_of_one_test():
    """The URL of an empty PostgreSQL database."""
    with scratch_database() as url:
        yield url
