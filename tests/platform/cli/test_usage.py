"""`tritiumd usage`: a file is counted line by line, each once for ever."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tritium_platform.cli import usage
from tritium_platform.cli.app import app


@pytest.fixture
def tritiumd(tmp_path):
    def run(*words, code=0, given=None):
        words = [*words, "--data-dir", str(tmp_path / "data"), "--format", "json"]
        done = CliRunner().invoke(app, words, input=given)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    return run


@pytest.fixture
def tenant(tritiumd):
    return tritiumd("tenant", "create", "Acme", "--tier", "team")["id"]


def an_event(tenant, name, **changes):
    fields = {
        "tenant_id": tenant,
        "source": "import",
        "id": name,
        "meter": "output_tokens",
        "quantity": 7,
        "event_time": "2026-09-01T12:00:00Z",
    }
    return json.dumps({**fields, **changes})


def test_a_file_may_be_counted_again_after_an_interruption(tritiumd, tenant, tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "AT_ONCE", 3)
    path = tmp_path / "events.jsonl"
    lines = [an_event(tenant, str(number)) for number in range(8)]
    path.write_text("\n".join(lines[:5]))
    assert tritiumd("usage", "ingest", str(path)) == {
        "accepted": 5,
        "duplicate": 0,
        "deferred": 0,
        "refused": 0,
        "lines": [],
    }
    path.write_text("\n\n".join(lines) + "\n")
    assert tritiumd("usage", "ingest", str(path)) == {
        "accepted": 3,
        "duplicate": 5,
        "deferred": 0,
        "refused": 0,
        "lines": [],
    }
    for words in (("usage", "show", tenant), ("usage", tenant)):
        told = tritiumd(*words, "--period", "2026-09")
        assert told["totals"] == [{"meter": "output_tokens", "tier": "team", "quantity": 56}]
    assert tritiumd("usage", "--period", "2026-08", tenant)["totals"] == []


def test_lines_that_are_refused_are_named_and_the_others_counted(tritiumd, tenant):
    lines = [
        an_event(tenant, "1"),
        "{",
        an_event(tenant, "1", quantity=8),
        an_event(tenant, "2", quantity=1.5),
        an_event("00000000-0000-7000-8000-000000000000", "3"),
        an_event(tenant, "4", dimensions={"model": "m", "tier": "business"}),
    ]
    told = tritiumd("usage", "ingest", "-", code=1, given="\n".join(lines))
    assert (told["accepted"], told["duplicate"], told["refused"]) == (2, 0, 4)
    assert [each["line"] for each in told["lines"]] == [2, 4, 3, 5]
    assert "no such tenant" in told["lines"][3]["detail"]
    totals = tritiumd("usage", tenant, "--period", "2026-09")["totals"]
    assert {each["tier"] for each in totals} == {"business", "team"}
