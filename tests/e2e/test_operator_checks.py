"""`tritiumd compliance check` and `tritiumd retention`, beside a server that runs."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import time
import zipfile

import httpx2
import pytest
import tritium_test_programs as programs

from tritium_platform.cli.compliance import FrameworkName
from tritium_platform.compliance.model import Framework

LONG_AGO = 40 * 24 * 3600


def tool(*arguments):
    return programs.run("tritiumd", *arguments)


def answer_of(*arguments):
    done = tool(*arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`tritiumd serve` on a fresh directory: (data directory, what it printed)."""
    data_dir = tmp_path_factory.mktemp("data")
    command = ["tritiumd", "serve", "--data-dir", data_dir, "--port", "0", "--format", "json"]
    process = programs.start(*command, log=data_dir / "log")
    yield data_dir, json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    process.stdout.close()


@pytest.fixture(scope="module")
def shop(server):
    """A tenant's id, and a client with its key."""
    data_dir, facts = server
    tenant = answer_of("tenant", "create", "Acme", "--data-dir", data_dir)
    key = answer_of("key", "create", tenant["id"], "--data-dir", data_dir)["key"]
    with httpx2.Client(base_url=facts["url"], headers={"authorization": f"Bearer {key}"}) as client:
        yield tenant["id"], client


def is_logged(text, data_dir) -> bool:
    """Whether a text stands in the log of a server that writes; it puts whole files in their places."""
    files = [path for path in (data_dir / "audit" / "tile" / "entries").rglob("[!.]*") if path.is_file()]
    return any(text.encode() in path.read_bytes() for path in files)


def uploaded(client, model) -> str:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in model.iterdir():
            archive.write(path, path.name)
    answer = client.post("/api/v1/uploads", content=content.getvalue(), timeout=60)
    return answer.raise_for_status().json()["id"]


def test_a_running_platform_passes_its_checks_and_the_log_keeps_the_reports_digest(server, shop, harness):
    data_dir, _ = server
    report = answer_of("compliance", "check", "--data-dir", data_dir)
    assert [result["outcome"] for result in report["results"]] == ["pass"] * 3
    assert set(report["outcomes"]) == {"pass", "fail", "error", "not_applicable", "not_checked"}
    facts_of = {result["check"]: result["evidence"]["facts"] for result in report["results"]}
    assert facts_of["api-keys-are-hashed"]["keys"] >= 1
    names = {table["name"] for table in facts_of["tenant-tables-carry-their-tenant"]["tables"]}
    assert {"api_keys", "usage_records", "security_events"} <= names
    # What a command left in the outbox, the server logs.
    harness.wait_until(lambda: is_logged(report["id"], data_dir))
    assert answer_of("audit", "verify", "--data-dir", data_dir)["is_intact"]


def test_a_broken_control_fails_by_name_with_exit_code_one(server, shop):
    data_dir, _ = server
    with sqlite3.connect(data_dir / "tritium.sqlite3", timeout=30) as database:
        (before,) = database.execute("SELECT secret_hash FROM api_keys").fetchone()
        database.execute("UPDATE api_keys SET secret_hash = ?", (b"the secret itself, in plain text",))
    try:
        done = tool("compliance", "check", "--data-dir", data_dir)
        assert done.returncode == 1
        assert "fail  api-keys-are-hashed" in done.stdout
        assert "pass  audit-log-is-intact" in done.stdout
        assert "not an audit opinion" in done.stdout
    finally:
        with sqlite3.connect(data_dir / "tritium.sqlite3", timeout=30) as database:
            database.execute("UPDATE api_keys SET secret_hash = ?", (before,))


def test_the_frameworks_of_the_command_are_those_of_the_room(server):
    data_dir, _ = server
    assert {each.value for each in FrameworkName} == {each.value for each in Framework}
    report = answer_of("compliance", "check", "--framework", "HIPAA", "--data-dir", data_dir)
    assert report["framework"] == "HIPAA"
    assert all(any("HIPAA" in each for each in result["maps_to"]) for result in report["results"])


def test_an_old_upload_is_shown_then_deleted_and_its_storage_given_back(
    server, shop, harness, scripture_llama
):
    data_dir, _ = server
    tenant_id, client = shop
    old, new = uploaded(client, scripture_llama), uploaded(client, scripture_llama)
    size = client.get("/api/v1/account").json()["storage"]["used"]
    then = time.time() - LONG_AGO
    os.utime(data_dir / "uploads" / tenant_id / old, (then, then))

    before = answer_of("retention", "preview", "--data-dir", data_dir)
    assert before["is_dry_run"]
    assert [(each["id"], each["tenant_id"]) for each in before["uploads"]] == [(old, tenant_id)]
    assert (data_dir / "uploads" / tenant_id / old).exists()

    done = answer_of("retention", "run", "--data-dir", data_dir)
    assert [each["id"] for each in done["uploads"]] == [old]
    assert not (data_dir / "uploads" / tenant_id / old).exists()
    assert (data_dir / "uploads" / tenant_id / new).exists()
    assert client.get("/api/v1/account").json()["storage"]["used"] == size / 2
    assert answer_of("retention", "run", "--data-dir", data_dir)["uploads"] == []
    shown = tool("retention", "run", "--data-dir", data_dir)
    assert shown.stdout == "Deleted: uploads: 0, batch files: 0, security events: 0\n"
    harness.wait_until(lambda: is_logged("retention.delete", data_dir))


def test_security_events_are_forgotten_after_a_year(server):
    data_dir, facts = server
    with httpx2.Client(base_url=facts["url"]) as stranger:
        assert stranger.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
    database = sqlite3.connect(data_dir / "tritium.sqlite3", timeout=30, isolation_level=None)
    for _ in range(100):
        (count,) = database.execute("SELECT count(*) FROM security_events").fetchone()
        if count:
            break
        time.sleep(0.05)
    database.execute("UPDATE security_events SET timestamp = timestamp - 366 * 24 * 3600 * 1000000")
    database.close()
    assert answer_of("retention", "run", "--data-dir", data_dir)["security_events"] == count
