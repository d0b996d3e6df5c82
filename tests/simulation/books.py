"""The books as they lie in the database and on the disk, read without the code that wrote them."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
from collections import Counter
from contextlib import closing
from uuid import UUID

import psycopg

TILE = 256
TOKENS = ("input_tokens", "output_tokens", "embedding_tokens")


def same(identity):
    """Spell a UUID in the one way in which ours are compared."""
    return UUID(str(identity)).hex


class Books:
    """All tables that count something, and all leaves of the audit log."""

    def __init__(self, data_dir, *, database_url):
        self._data_dir = data_dir
        self._url = database_url
        self.usage = self._table(
            "usage_records",
            "id tenant_id source event_id operation outcome input_tokens output_tokens embedding_tokens "
            "quantized_parameters storage_bytes",
        )
        self.counters = self._table("quota_counters", "tenant_id meter used held ceiling")
        self.reservations = self._table("reservations", "id tenant_id meter amount used state")
        self.jobs = self._table("quantization_jobs", "id tenant_id model_name state error_code")
        self.models = self._table("models", "id tenant_id name path")
        self.outbox = self._table("audit_outbox", "id log_index")
        self.head_size, self.head_root = self._head()
        self.raw_leaves = self._leaves()
        self.leaves = [json.loads(leaf) for leaf in self.raw_leaves]

    def _table(self, name, columns):
        columns = columns.split()
        statement = f"SELECT {', '.join(columns)} FROM {name}"
        if self._url:
            with psycopg.connect(self._url.replace("+psycopg", "")) as connection:
                rows = connection.execute(statement).fetchall()
        else:
            with closing(sqlite3.connect(self._data_dir / "tritium.sqlite3")) as connection:
                rows = connection.execute(statement).fetchall()
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        for row in found:
            row |= {column: same(row[column]) for column in ("id", "tenant_id") if column in row}
        return found

    def _head(self):
        _, size, root = (self._data_dir / "audit" / "checkpoint").read_text().splitlines()[:3]
        return int(size), root

    def _leaves(self):
        """Read the entry bundles of the log, as many leaves as its signed head counts."""
        leaves = []
        for index in range(-(-self.head_size // TILE)):
            width = min(TILE, self.head_size - index * TILE)
            path = self._data_dir / "audit" / "tile" / "entries" / f"{index:03d}"
            assert index < 1000
            if width < TILE and not path.is_file():
                path = path.with_name(f"{path.name}.p") / str(width)
            data = path.read_bytes()
            for _ in range(width):
                length = int.from_bytes(data[:2], "big")
                leaves.append(data[2 : 2 + length])
                data = data[2 + length :]
        return leaves

    def root(self, size):
        """Return the RFC 6962 root of the first leaves, in base64, by the definition."""
        return base64.b64encode(merkle_root(self.raw_leaves[:size])).decode()

    def bytes_on_disk(self, tenant_id):
        """Count the bytes of files below a tenant's models."""
        directory = self._data_dir / "models" / str(UUID(tenant_id))
        return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())

    def leftovers(self):
        """Return the work directories of jobs and everything half made beside models."""
        return [
            *(path for path in (self._data_dir / "jobs").iterdir() if path.is_dir()),
            *(self._data_dir / "models").glob("*/.*"),
        ]


def merkle_root(leaves):
    """Hash leaves into a root as RFC 6962, section 2.1, defines it; its recursion, without recursion."""
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        paired = [
            hashlib.sha256(b"\1" + left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=False)
        ]
        level = paired + level[2 * len(paired) :]
    return level[0] if level else hashlib.sha256().digest()


def is_counted(record):
    """Tell whether a use of the gateway counts as a request of the month."""
    if record["operation"] in {"quantization", "deployment"}:
        return record["outcome"] == "success"
    return record["input_tokens"] + record["embedding_tokens"] > 0


def check_answers(books, seen):
    """Each answer that a client has in full: one record with its figures, one leaf, never two."""
    leaves_of = {}
    for leaf in books.leaves:
        label = leaf["details"].get("request_id")
        if label is not None and not leaf["action"].endswith(".refuse"):
            leaves_of.setdefault(label, []).append(leaf)
    records = {(each["source"], each["event_id"]): each for each in books.usage}
    assert len(records) == len(books.usage), "a use is recorded twice"
    for label, leaves in leaves_of.items():
        assert len(leaves) == 1, f"{label} has {len(leaves)} leaves"
    for answer in seen.answers:
        assert answer.request_id in leaves_of, f"{answer} is not in the audit log"
        leaf = leaves_of[answer.request_id][0]
        record = records["gateway", same(leaf["event_id"])]
        figures = {name: getattr(answer, name) for name in TOKENS}
        assert {name: record[name] for name in figures} == figures, (answer, record)
        assert {name: leaf["details"][name] for name in figures} == figures, (answer, leaf)
        assert leaf["action"] == f"{answer.operation}.complete"
        assert (record["operation"], record["outcome"]) == (answer.operation, "success")
        assert {record["tenant_id"], same(leaf["tenant_id"])} == {same(answer.tenant_id)}
    for label in seen.finished:
        assert label in leaves_of, f"{label} was finished and is not in the audit log"


def check_log(books, seen):
    """Every intent has one leaf, every use one of the same figures; every head ever seen begins the log."""
    ids = [same(leaf["id"]) for leaf in books.leaves]
    assert len(set(ids)) == len(ids) == books.head_size == len(books.outbox)
    assert {row["id"]: row["log_index"] for row in books.outbox} == {
        identity: index for index, identity in enumerate(ids)
    }
    uses = {
        same(leaf["id"]): [leaf["details"][name] for name in TOKENS]
        for leaf in books.leaves
        if all(name in leaf["details"] for name in TOKENS)
    }
    assert uses == {
        each["id"]: [each[name] for name in TOKENS] for each in books.usage if each["source"] == "gateway"
    }
    assert books.root(books.head_size) == books.head_root
    for size, root in {(size, root) for size, root, _ in seen.checkpoints}:
        assert size <= books.head_size, f"the log was rolled back from {size} to {books.head_size}"
        assert books.root(size) == root, f"the first {size} entries were others once"


def check_quotas(books):
    """Nothing is held; what is used is what was counted."""
    assert [each for each in books.reservations if each["state"] == "held"] == []
    assert [each for each in books.counters if each["held"]] == []
    counted = Counter(
        each["tenant_id"] for each in books.usage if each["source"] == "gateway" and is_counted(each)
    )
    used_up = Counter()
    for each in books.reservations:
        if each["meter"] == "requests":
            used_up[each["tenant_id"]] += each["used"]
    used = {each["tenant_id"]: each["used"] for each in books.counters if each["meter"] == "requests"}
    assert used == counted == +used_up


def check_storage(books):
    """The counters of storage are the bytes that lie on the disk."""
    used = {each["tenant_id"]: each["used"] for each in books.counters if each["meter"] == "storage_bytes"}
    assert used == {tenant: books.bytes_on_disk(tenant) for tenant in used}
    assert books.leftovers() == []


def check_jobs(books, seen):
    """Every job has ended; who succeeded is registered, counted and logged once, who did not is nothing."""
    jobs = {each["id"]: each for each in books.jobs}
    deleted = {same(job.id) for job in seen.jobs if job.deleted}
    acknowledged = {same(job.id) for job in seen.jobs}
    assert acknowledged <= jobs.keys(), "an acknowledged job is lost"
    registered = Counter(each["id"] for each in books.models)
    records = Counter(same(each["event_id"]) for each in books.usage if each["source"] == "quantization")
    leaves = Counter(
        same(leaf["event_id"]) for leaf in books.leaves if leaf["action"] == "quantization.finish"
    )
    for identity, job in jobs.items():
        is_done = job["state"] == "succeeded"
        assert job["state"] in {"succeeded", "cancelled"}, job
        assert records[identity] == int(is_done), job
        assert registered[identity] == int(is_done and identity not in deleted), job
        assert leaves[identity] == int(is_done) or job["state"] == "cancelled", job
        assert leaves[identity] <= 1, job
    assert records.keys() <= jobs.keys()
