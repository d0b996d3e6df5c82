"""`tritiumd health` and `tritiumd usage series`: what is shown, kept and made again, whoever runs beside."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from tritium.errors import ValidationError
from tritium_platform.cli.app import app

NOW = datetime.now(UTC)


@pytest.fixture
def tritiumd(tmp_path):
    def run(*words, code=0, given=None, output="json"):
        words = [*words, "--data-dir", str(tmp_path / "data"), "--format", output]
        done = CliRunner().invoke(app, words, input=given)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if output == "json" else done.stdout

    return run


@pytest.fixture
def tenant(tritiumd):
    return tritiumd("tenant", "create", "Acme", "--tier", "team")["id"]


def test_a_score_is_shown_kept_once_a_day_and_made_again(tritiumd, tenant, tmp_path):
    shown = tritiumd("health", tenant)
    assert (shown["score"], shown["definition"], len(shown["sha256"])) == (None, 1, 64)
    assert "never answered" in tritiumd("health", "show", tenant, output="human")
    assert tritiumd("health", "list")["customers"][0]["name"] == "Acme"
    assert (tritiumd("health", "keep"), tritiumd("health", "keep")) == ({"kept": 1}, {"kept": 0})
    assert tritiumd("health", "recompute", tenant) == {"recomputed": 1, "differences": []}
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    engine = create_engine(f"sqlite:///{tmp_path / 'data' / 'tritium.sqlite3'}")
    with engine.begin() as connection:  # a hand in the database, an hour before midnight
        row = {
            "tenant": tenant.replace("-", ""),
            "hour": f"{midnight - timedelta(hours=1):%Y-%m-%d %H:00:00.000000}",
        }
        connection.execute(text("INSERT INTO health_outcomes VALUES (:tenant, :hour, 'success', 3, 9)"), row)
    engine.dispose()
    told = tritiumd("health", "recompute", tenant, code=1)
    assert {each["what"]: (each["kept"], each["now"]) for each in told["differences"]}[
        "facts.week.success"
    ] == ("0", "9")
    assert "facts.week.success" in tritiumd("health", "recompute", tenant, code=1, output="human")
    assert tritiumd("health", tenant, "--as-of", midnight.isoformat())["score"] == 100


@pytest.mark.parametrize(
    "moment", ["noon", "0001-01-01T00:00+14:00", "0001-01-01T00:00Z", "9999-12-31T23:00-14:00"]
)
def test_a_moment_that_is_no_hour_of_ours_is_refused_in_a_word(tritiumd, tenant, tmp_path, moment):
    words = ["health", tenant, "--as-of", moment, "--data-dir", str(tmp_path / "data")]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, ValidationError), refused.exception


def test_uses_are_summed_up_by_day_and_model(tritiumd, tenant):
    at = (NOW - timedelta(minutes=5)).isoformat()
    event = {"tenant_id": tenant, "source": "import", "meter": "output_tokens", "event_time": at}
    events = [
        event | {"id": str(number), "quantity": 7, "dimensions": {"model": "ab"[number % 2]}}
        for number in range(5)
    ]
    tritiumd("usage", "ingest", "-", given="\n".join(map(json.dumps, events)))
    points = tritiumd("usage", "series", tenant, "--group", "model")["points"]
    assert {(each["name"], each["uses"], each["meters"]["output_tokens"]) for each in points} == {
        ("a", 3, 21),
        ("b", 2, 14),
    }
    assert sum(each["uses"] for each in tritiumd("usage", "series", tenant, "--by", "hour")["points"]) == 5
    told = tritiumd("usage", "summary", tenant)
    assert told["uses"] == {"this_week": 5, "week_before": 0, "growth_ppm": None}
    assert [each["name"] for each in told["top_models"]] == ["a", "b"]
    assert told["month_end"]["expected_minor"] is None
    text_of_it = tritiumd("usage", "summary", tenant, output="human")
    assert "5 (- on the week before)" in text_of_it
