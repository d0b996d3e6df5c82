"""Events over a real port while the database takes nothing: 202, and in the books when it is back."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import uuid
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import make_url

from tritium_platform.adapters.sql import database as database_module

OWN, OPERATORS = "/api/v1/usage/events", "/api/v1/billing/events"
SERVER = os.environ.get("TRITIUM_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres")
POLL_SECONDS = 0.5  # `revocation_poll_seconds`, as nobody said another
CLOUD = {"content-type": "application/cloudevents+json"}


def an_event(**changes):
    fields = {
        "source": "engine-7",
        "id": uuid.uuid4().hex,
        "meter": "output_tokens",
        "quantity": 7,
        "event_time": datetime.now(UTC).isoformat(),
    }
    return {**fields, **changes}


def a_cloud_event(**changes):
    event = {"specversion": "1.0", "type": "tritium.usage", "source": "engine-8", "id": uuid.uuid4().hex}
    data = {"meter": "output_tokens", "quantity": 7}
    return {**event, "time": datetime.now(UTC).isoformat(), "data": data, **changes}


def answered(*, accepted=0, duplicates=(), deferred=()):
    lists = {"duplicates": list(duplicates), "deferred": list(deferred), "refused": []}
    return {"accepted": accepted, **lists}


@pytest.fixture
def impatient(tmp_path, harness, monkeypatch):
    """A platform on SQLite that does not wait for the file's one writer."""
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.1)
    running, stop = harness.serve(harness.platform_config(tmp_path))
    yield running
    stop()


@contextlib.contextmanager
def locked(running):
    """Let the database take nothing: somebody else writes."""
    path = running.platform.config.data_dir / "tritium.sqlite3"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def waiting_bytes(running):
    with running.admin() as http:
        text = http.get("/metrics").text
    (line,) = [each for each in text.splitlines() if each.startswith("tritium_event_spool_bytes ")]
    return float(line.split()[1])


def test_events_are_answered_as_deferred_and_come_into_the_books(impatient, harness):
    tenant_id, key = impatient.tenant(events_per_minute=60)
    first, cloud, operators = an_event(), a_cloud_event(), an_event(tenant_id=tenant_id)
    with impatient.http(key) as http, impatient.admin() as admin:
        known = an_event()
        assert http.post(OWN, json={"events": [known]}).status_code == 200
        with locked(impatient):
            answer = http.post(OWN, json={"events": [first, an_event()]})
            assert (answer.status_code, answer.json()) == (202, answered(deferred=[0, 1]))
            assert answer.headers["x-ratelimit-remaining-events"] == "57"
            mixed = http.post(OWN, json={"events": [an_event(meter="seconds"), an_event()]})
            assert (mixed.status_code, mixed.json()["deferred"]) == (207, [1])
            assert [each["index"] for each in mixed.json()["refused"]] == [0]
            one = http.post(OWN, json=cloud, headers=CLOUD)
            assert (one.status_code, one.json()) == (202, answered(deferred=[0]))
            conflict = http.post(OWN, json={**cloud, "data": {**cloud["data"], "quantity": 8}}, headers=CLOUD)
            assert conflict.status_code == 202  # nobody can know yet
            wrong = http.post(OWN, json=a_cloud_event(data={"meter": "x", "quantity": 1}), headers=CLOUD)
            assert wrong.status_code == 422
            theirs = admin.post(OPERATORS, json={"events": [operators]})
            assert (theirs.status_code, theirs.json()) == (202, answered(deferred=[0]))
            assert waiting_bytes(impatient) > 0
        harness.wait_until(lambda: waiting_bytes(impatient) == 0)
        usage = http.get("/api/v1/usage").raise_for_status().json()
        assert [each["quantity"] for each in usage["totals"]] == [6 * 7]
        again = http.post(OWN, json={"events": [known, first]})
        assert (again.status_code, again.json()) == (200, answered(duplicates=[0, 1]))
        late = http.post(OWN, json=cloud, headers=CLOUD)
        assert (late.status_code, late.json()) == (200, answered(duplicates=[0]))


def superuser(url):
    """Connect to a database as somebody from whom no row is kept apart."""
    server = make_url(SERVER).set(drivername="postgresql", database=make_url(url).database)
    return psycopg.connect(server.render_as_string(hide_password=False), autocommit=True)


@contextlib.contextmanager
def gone(url):
    """Let PostgreSQL close all connections to a database and take no new one."""
    server = SERVER.replace("+psycopg", "")
    with psycopg.connect(server, autocommit=True) as connection:
        name = make_url(url).database
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )
            yield
        finally:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


@contextlib.contextmanager
def read_only(url):
    """Let PostgreSQL answer questions and take nothing, as a standby does."""
    server, name = SERVER.replace("+psycopg", ""), make_url(url).database
    with psycopg.connect(server, autocommit=True) as connection:

        def begin_anew(setting):
            connection.execute(f'ALTER DATABASE "{name}" {setting}')
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )

        begin_anew("SET default_transaction_read_only = on")
        try:
            yield
        finally:
            begin_anew("RESET default_transaction_read_only")


@pytest.mark.service
def test_a_postgresql_that_only_answers_is_away_for_events(postgresql_url_of_one_test, harness, tmp_path):
    url = postgresql_url_of_one_test
    running, stop = harness.serve(harness.platform_config(tmp_path, database_url=url))
    _, key = running.tenant()
    sent = [an_event() for _ in range(3)]
    with running.http(key) as http:
        with read_only(url):
            harness.wait_until(lambda: http.get("/api/v1/usage").status_code == 200)
            answer = http.post(OWN, json={"events": sent})
            assert (answer.status_code, answer.json()) == (202, answered(deferred=[0, 1, 2]))
        harness.wait_until(lambda: waiting_bytes(running) == 0)
        harness.wait_until(lambda: http.get("/api/v1/usage").status_code == 200)
        records = http.get("/api/v1/usage").json()["records"]
        assert sorted(each["event_id"] for each in records) == sorted(each["id"] for each in sent)
    stop()


@pytest.mark.service
def test_whose_key_is_known_is_taken_in_for_as_long_as_postgresql_is_gone(
    postgresql_url_of_one_test, harness, tmp_path
):
    url = postgresql_url_of_one_test
    running, stop = harness.serve(harness.platform_config(tmp_path, database_url=url))
    tenant_id, key = running.tenant()
    _, unknown = running.tenant()
    sent = [an_event()]
    with running.http(key) as http, running.http(unknown) as stranger, running.admin() as admin:
        assert http.post(OWN, json={"events": sent}).status_code == 200
        assert admin.post(OPERATORS, json={"events": [an_event(tenant_id=tenant_id)]}).status_code == 200
        with gone(url):
            begun = time.monotonic()
            while time.monotonic() < begun + 4 * POLL_SECONDS:
                sent.append(an_event())
                answer = http.post(OWN, json={"events": sent[-1:]})
                assert (answer.status_code, answer.json()) == (202, answered(deferred=[0]))
            assert http.get("/api/v1/usage").status_code == 503
            sent.append(an_event(tenant_id=tenant_id))
            answer = admin.post(OPERATORS, json={"events": sent[-1:]})
            assert (answer.status_code, answer.json()) == (202, answered(deferred=[0]))
            others = an_event(tenant_id=str(uuid.uuid4()))
            assert admin.post(OPERATORS, json={"events": [others]}).status_code == 503
            answer = stranger.post(OWN, json={"events": [an_event()]})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        harness.wait_until(lambda: http.get("/health/ready").status_code == 200)
        harness.wait_until(lambda: waiting_bytes(running) == 0)
        records = http.get("/api/v1/usage", params={"limit": 1000}).raise_for_status().json()["records"]
        assert {each["id"] for each in sent} < {each["event_id"] for each in records}
        assert len(records) == len(sent) + 1
    stop()


@pytest.mark.service
def test_a_key_that_was_revoked_before_an_outage_brings_no_use(postgresql_url_of_one_test, harness, tmp_path):
    """Another process revoked it, and this one had no time to hear of it."""
    url = postgresql_url_of_one_test
    running, stop = harness.serve(harness.platform_config(tmp_path, database_url=url))
    tenant_id, key = running.tenant()
    known, stolen = an_event(), an_event()
    with running.http(key) as http, running.admin() as admin:
        assert http.post(OWN, json={"events": [known]}).status_code == 200
        time.sleep(POLL_SECONDS)
        with superuser(url) as connection:
            connection.execute("UPDATE api_keys SET revoked_at = now() WHERE tenant_id = %s", [tenant_id])
            connection.execute("UPDATE authorization_epoch SET epoch = epoch + 1")
        with gone(url):
            assert http.post(OWN, json={"events": [stolen]}).status_code == 202
        harness.wait_until(lambda: admin.get("/health/ready").status_code == 200)
        harness.wait_until(lambda: waiting_bytes(running) == 0)
        assert http.post(OWN, json={"events": [an_event()]}).status_code == 401
        assert 'tritium_events_refused_total{code="invalid_token"} 1.0' in admin.get("/metrics").text
        with superuser(url) as connection:
            assert connection.execute("SELECT event_id FROM usage_records").fetchall() == [(known["id"],)]
    stop()
