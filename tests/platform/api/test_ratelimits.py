"""The headers of the limits: OpenAI's forms, and the structured fields of the IETF's draft."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.api.ratelimits import duration, limit_headers, month_after
from tritium_platform.errors import QuotaExceededError, ValidationError
from tritium_platform.quotas.model import Allowance, RateStatus

ALLOWANCE = Allowance(
    requests=RateStatus(600, 599, reset_seconds=0.1),
    tokens=RateStatus(200_000, 4_200, reset_seconds=58.74),
    concurrent=RateStatus(32, 31, reset_seconds=0.0),
    month=RateStatus(100_000, 99_000, reset_seconds=86_400.5),
)
GO_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")


def test_openais_headers_have_numbers_and_durations():
    headers = limit_headers(ALLOWANCE)
    assert {name: value for name, value in headers.items() if name.startswith("x-")} == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "599",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-tokens": "4200",
        "x-ratelimit-reset-tokens": "58.74s",
    }


def test_the_drafts_fields_are_what_an_independent_reader_reads():
    headers = limit_headers(ALLOWANCE)
    policies = http_sf.parse(headers["ratelimit-policy"].encode(), tltype="list")
    assert policies == [
        ("requests-per-minute", {"q": 600, "w": 60}),
        ("tokens-per-minute", {"q": 200_000, "w": 60, "qu": "tokens"}),
        ("concurrent-requests", {"q": 32, "qu": "concurrent-requests"}),
        ("requests-per-month", {"q": 100_000}),
    ]
    assert http_sf.parse(headers["ratelimit"].encode(), tltype="list") == [
        ("requests-per-minute", {"r": 599, "t": 1}),
        ("tokens-per-minute", {"r": 4_200, "t": 59}),
        ("concurrent-requests", {"r": 31}),
        ("requests-per-month", {"r": 99_000, "t": 86_401}),
    ]


@given(
    st.builds(RateStatus, st.integers(0, 2**70), st.integers(0, 2**70), st.floats(0, 10**7)),
    st.none() | st.builds(RateStatus, st.integers(0, 9), st.integers(0, 9), st.floats(0, 10**7)),
)
def test_whatever_the_limits_the_fields_can_be_read(status, month):
    headers = limit_headers(Allowance(requests=status, tokens=status, concurrent=status, month=month))
    for name in ("ratelimit-policy", "ratelimit"):
        items = http_sf.parse(headers[name].encode(), tltype="list")
        assert len(items) == (4 if month else 3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.25, "250ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (360, "6m0s"),
        (3723.5, "1h2m3.5s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds, text):
    assert duration(seconds) == text


@given(st.floats(0, 10**7))
def test_a_duration_is_never_too_short_and_at_most_a_millisecond_too_long(seconds):
    hours, minutes, rest, milliseconds = GO_DURATION.fullmatch(duration(seconds)).groups(default="0")
    told = int(hours) * 3600 + int(minutes) * 60 + float(rest) + int(milliseconds) / 1000
    assert -1e-6 <= told - seconds <= 0.001 + 1e-6


def test_only_a_spent_month_tells_of_the_month():
    spent = QuotaExceededError(
        limit_name="requests per month",
        limit=5,
        current=3,
        reset_time=datetime(2026, 12, 1, tzinfo=UTC),
        retry_after=60,
    )
    assert month_after(spent) == RateStatus(5, 2, 60)
    assert month_after(ValidationError("x")) is None
