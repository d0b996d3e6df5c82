"""What the soak is made of, and the databases it runs on."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from pathlib import Path

import psycopg
import pytest

HERE = Path(__file__).resolve().parent
SERVER = os.environ.get("TRITIUM_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres")


def load_part(name):
    """Load a file of this folder once, by its path."""
    known = f"tritium_soak_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, HERE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module
        spec.loader.exec_module(module)
    return sys.modules[known]


@pytest.fixture(scope="session")
def parts():
    """The program, the load and the books, by these names."""
    return {name: load_part(name) for name in ("program", "load", "books")}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def database_url(request):
    """None for SQLite in the data directory; the URL of an empty PostgreSQL database."""
    if request.param == "sqlite":
        yield None
        return
    server, name = SERVER.replace("+psycopg", ""), f"tritium_soak_{secrets.token_hex(6)}"
    try:
        with psycopg.connect(server, autocommit=True, connect_timeout=3) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
            # What is killed is the platform, never PostgreSQL: nobody waits for the disk.
            connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    except psycopg.OperationalError as error:
        pytest.skip(f"PostgreSQL does not answer: {error}")
    yield f"{SERVER.rpartition('/')[0]}/{name}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
