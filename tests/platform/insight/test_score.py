"""The definition of the health score: written once, monotone, and what its document says."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.errors import ValidationError
from tritium_platform.insight.facts import PROMISED_MS, HealthFacts, Overdue, WeekOfOutcomes
from tritium_platform.insight.score import DEFINITIONS, Grade, score_health

DOCUMENT = Path(__file__).parents[3] / "docs" / "health.md"
AS_OF = datetime(2026, 11, 20, 9, tzinfo=UTC)
GOOD = HealthFacts(
    tenant_id=UUID(int=7),
    as_of=AS_OF,
    week=WeekOfOutcomes(success=1000, in_time=1000),
    week_before=WeekOfOutcomes(success=1000, in_time=1000),
    month_success=1000,
    month_ceiling=100_000,
    last_success=AS_OF - timedelta(hours=1),
    overdue=(),
    declined_attempts=0,
    disputes_opened=0,
)
counts = st.integers(0, 10**9)
weeks = st.builds(WeekOfOutcomes, success=counts, failed=counts, refused=counts, in_time=st.just(0))
facts = st.builds(
    replace,
    st.just(GOOD),
    week=weeks,
    week_before=weeks,
    month_success=counts,
    month_ceiling=st.none() | st.integers(1, 10**9),
    last_success=st.none() | st.integers(1, 5000).map(lambda hours: AS_OF - timedelta(hours=hours)),
    overdue=st.lists(
        st.builds(Overdue, currency=st.just("EUR"), amount_minor=counts, days_overdue=st.integers(0, 99)),
        max_size=1,
    ).map(tuple),
    declined_attempts=st.integers(0, 9),
    disputes_opened=st.integers(0, 9),
)


def test_what_is_all_good_is_100_and_each_trouble_costs_what_it_weighs() -> None:
    assert (score_health(GOOD).score, score_health(GOOD).weakest) == (100, None)
    week = GOOD.week
    troubles = {
        "success": replace(GOOD, week=replace(week, failed=1000)),
        "latency": replace(GOOD, week=replace(week, in_time=0)),
        "admission": replace(GOOD, week=replace(week, refused=1000)),
        "quota": replace(GOOD, month_success=200_000),
        "trend": replace(GOOD, week=replace(week, success=400, in_time=400)),
        "activity": replace(GOOD, last_success=AS_OF - timedelta(days=20)),
        "overdue": replace(GOOD, overdue=(Overdue(currency="EUR", amount_minor=1, days_overdue=31),)),
        "declines": replace(GOOD, declined_attempts=3),
        "disputes": replace(GOOD, disputes_opened=1),
    }
    weights = {each.name: each.weight for each in DEFINITIONS[1]}
    assert troubles.keys() == weights.keys()
    assert sum(weights.values()) == 100
    for name, bad in troubles.items():
        scored = score_health(bad)
        assert scored.score == 100 - weights[name], name
        assert scored.weakest is not None
        assert scored.weakest.name == name


def test_what_nothing_is_known_of_counts_neither_for_nor_against() -> None:
    new = replace(GOOD, week_before=WeekOfOutcomes(), month_ceiling=None)
    assert score_health(new).score == 100
    late = replace(new, overdue=(Overdue(currency="EUR", amount_minor=1, days_overdue=30),))
    assert score_health(late).score == 87  # 65 of the 75 that are known
    assert score_health(replace(new, last_success=None)).score is None
    assert score_health(replace(new, last_success=None)).grade is None


def test_a_customer_that_went_silent_is_at_risk() -> None:
    gone = replace(GOOD, week=WeekOfOutcomes(), last_success=AS_OF - timedelta(days=14))
    assert score_health(gone).grade is Grade.WATCH
    debtor = replace(
        gone, overdue=(Overdue(currency="EUR", amount_minor=1, days_overdue=40),), declined_attempts=4
    )
    assert score_health(debtor).grade is Grade.AT_RISK


@given(facts, counts)
def test_a_score_is_from_0_to_100_and_another_failure_or_refusal_never_makes_it_better(
    given_facts: HealthFacts, count: int
) -> None:
    before = score_health(given_facts)
    assert before.score is None or 0 <= before.score <= 100
    for name in ("failed", "refused"):
        worse = replace(
            given_facts, week=replace(given_facts.week, **{name: count + getattr(given_facts.week, name)})
        )
        values = [{each.name: each.value for each in of.components} for of in (before, score_health(worse))]
        component = "success" if name == "failed" else "admission"
        was, now = (each[component] for each in values)
        assert was is None or (now is not None and now <= was)


@given(facts)
def test_facts_are_read_back_as_they_were_written_and_give_the_same_bytes(given_facts: HealthFacts) -> None:
    read = HealthFacts.from_dict(given_facts.to_dict())
    assert read == given_facts
    assert score_health(read).body() == score_health(given_facts).body()


def test_version_1_is_never_changed() -> None:
    assert hashlib.sha256(repr(DEFINITIONS[1]).encode()).hexdigest()[:16] == "2ff0de9634b4df60"
    assert score_health(GOOD).sha256[:16] == "278a21516871b15b"
    with pytest.raises(ValidationError, match="no version 99"):
        score_health(GOOD, definition=99)


def test_the_document_says_what_the_program_does() -> None:
    text = DOCUMENT.read_text()
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| (\d+) \| `(-?[\d,]+)` \| `(-?[\d,]+)` \| (\w+) \|$", text, re.MULTILINE
    )
    said = [
        (name, unit, int(weight), int(bad.replace(",", "")), int(good.replace(",", "")))
        for name, weight, bad, good, unit in rows
    ]
    assert said == [(each.name, each.unit, each.weight, each.bad, each.good) for each in DEFINITIONS[1]]
    assert f"{PROMISED_MS:,} ms" in text
