"""kill -9 while several processes finalize, pay, void and credit: afterwards the books are right.

TRITIUM_MONEY_KILLS kills per database (6), with the draws of TRITIUM_MONEY_SEED.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import tritium_test_programs as programs
from sqlalchemy import text

from tritium_platform.adapters.sql.migrate import synchronous_engine
from tritium_platform.audit.note import NoteVerifier

WORKER = Path(__file__).with_name("money_worker.py")
KILLS = int(os.environ.get("TRITIUM_MONEY_KILLS", "6"))
SEED = os.environ.get("TRITIUM_MONEY_SEED", "1")
WORKERS = 2


def killed(worker: programs.Running) -> list[str]:
    """Kill a worker; return what it said that was not read yet."""
    worker.kill()
    assert worker.wait() == -signal.SIGKILL
    with worker.stdout:
        return worker.stdout.read().decode().splitlines()


def test_the_books_are_right_after_many_kills(sql_url: str, tmp_path: Path) -> None:
    def start(number: int) -> programs.Running:
        return programs.start(WORKER, sql_url, f"{SEED} {number}", log=tmp_path / "log")

    chance = random.Random(SEED)
    workers = [start(place) for place in range(WORKERS)]
    acknowledged: list[str] = []
    for kill in range(KILLS):
        acknowledged.append(workers[0].stdout.readline().decode())  # it is at work
        time.sleep(chance.uniform(0, 0.4))
        acknowledged += killed(workers.pop(0))
        workers.append(start(kill + WORKERS))
    for worker in workers:
        acknowledged += killed(worker)
    # A line that the kill cut short says nothing.
    known = {line.split()[1] for line in acknowledged if len(line.strip()) == len("finalized ") + 36}
    check(sql_url, acknowledged=known)


def rows(connection: Any, statement: str) -> list[Any]:
    return list(connection.execute(text(statement)).mappings())


def check(url: str, *, acknowledged: set[str]) -> None:
    engine = synchronous_engine(url)
    with engine.connect() as connection:
        documents = rows(connection, "SELECT * FROM invoice_documents ORDER BY series, sequence")
        invoices = {str(each["id"]): each for each in rows(connection, "SELECT * FROM invoices")}
        entries = rows(
            connection,
            "SELECT e.*, g.operation_id FROM journal_entries e JOIN journal_groups g ON g.id = group_id",
        )
        heads = rows(connection, "SELECT * FROM journal_groups")
        events = rows(connection, "SELECT * FROM invoice_events")
        outbox = [json.loads(each["entry_json"]) for each in rows(connection, "SELECT * FROM audit_outbox")]
    engine.dispose()
    for series in {each["series"] for each in documents}:
        mine = [each["sequence"] for each in documents if each["series"] == series]
        assert mine == list(range(1, len(mine) + 1)), series
    written = {str(each["invoice_id"]).replace("-", "") for each in documents}
    assert {each.replace("-", "") for each in acknowledged} <= written
    assert len(acknowledged) >= KILLS
    for each in documents:
        check_document(each)
    closed = [each for each in invoices.values() if each["status"] != "draft"]
    assert {str(each["id"]).replace("-", "") for each in closed} == written
    sums: Counter[str] = Counter()
    for each in entries:
        sums[str(each["group_id"])] += each["amount_minor"]
    assert set(sums) == {str(each["id"]) for each in heads}
    assert not any(sums.values())
    check_operations(heads, invoices=list(invoices.values()))
    billed = Counter(each["usage_id"] for each in events if not each["is_void"])
    assert set(billed.values()) <= {1}
    check_audit(outbox, invoices=list(invoices.values()))


def check_document(row: Any) -> None:
    body = bytes(row["body"])
    assert hashlib.sha256(body).digest() == bytes(row["sha256"])
    said = NoteVerifier.from_vkey(row["verifier_key"]).open_note(bytes(row["note"])).splitlines()
    assert said[1:] == [row["number"], base64.b64encode(bytes(row["sha256"])).decode()]
    assert json.loads(body)["number"] == row["number"]


def check_operations(heads: list[Any], *, invoices: list[Any]) -> None:
    """Every invoice that moved money is in the journal once per movement, and nothing else is."""
    operations = Counter(each["operation_id"].partition(":")[0] for each in heads)
    moved = [each for each in invoices if each["status"] != "draft" and each["total_minor"]]
    bills = [each for each in moved if each["kind"] == "invoice"]
    assert operations["finalize"] == len(bills)
    assert operations["credit"] == len(moved) - len(bills)
    assert operations["void"] == sum(each["status"] == "void" for each in bills)
    assert operations["payment"] == sum(each["paid_minor"] > 0 for each in bills)


def check_audit(outbox: list[Any], *, invoices: list[Any]) -> None:
    actions = Counter(each["action"] for each in outbox)
    bills = [each for each in invoices if each["kind"] == "invoice"]
    assert actions["invoice.generate"] == len(bills)
    assert actions["invoice.finalize"] == sum(each["status"] != "draft" for each in bills)
    assert actions["invoice.void"] == sum(each["status"] == "void" for each in bills)
    assert actions["invoice.pay"] == sum(each["paid_minor"] > 0 for each in bills)
    assert actions["credit_note.finalize"] == len(invoices) - len(bills)
