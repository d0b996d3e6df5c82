"""Rate limits: exact, never over-admitting, and honest about how long to wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.quotas.ratelimit import MINUTE, SECOND, carried_over, decide_rate, rate_status

limits = st.integers(1, 10**7)
waits = st.integers(0, 2 * MINUTE)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A limit, and arrivals of (nanoseconds since the one before, amount)."""
    limit = draw(limits)
    return limit, draw(st.lists(st.tuples(waits, st.integers(0, limit)), max_size=40))


@given(arrivals())
def test_the_wait_is_right_to_the_nanosecond(case: tuple[int, list[tuple[int, int]]]) -> None:
    limit, steps = case
    arrival, now = 0, 0
    for wait, amount in steps:
        now += wait
        decision = decide_rate(limit=limit, amount=amount, theoretical_arrival=arrival, now=now)
        if decision.wait:
            sooner = now + decision.wait - 1
            assert not decide_rate(
                limit=limit, amount=amount, theoretical_arrival=arrival, now=sooner
            ).is_admitted
            assert decide_rate(
                limit=limit, amount=amount, theoretical_arrival=arrival, now=sooner + 1
            ).is_admitted
        arrival = decision.theoretical_arrival


@given(limits, st.integers(1, 1000))
def test_more_than_the_bucket_holds_is_never_admitted(limit: int, more: int) -> None:
    decision = decide_rate(limit=limit, amount=limit + more, theoretical_arrival=0, now=10**15)
    assert (decision.is_admitted, decision.wait) == (False, None)


@given(limits, limits, st.integers(0, 10**18), st.data())
def test_another_limit_misses_as_many_units_but_never_more_than_a_bucket(
    kept: int, limit: int, now: int, data: st.DataObject
) -> None:
    missing = data.draw(st.integers(0, kept))
    arrival = carried_over(now * kept + missing * MINUTE, kept_limit=kept, limit=limit, now=now)
    status = rate_status(limit=limit, theoretical_arrival=arrival, now=now)
    assert status.remaining == max(0, limit - missing)


def test_a_state_of_another_clock_heals_within_a_minute() -> None:
    arrival = carried_over(10**30, kept_limit=60, limit=60, now=5 * SECOND)
    assert decide_rate(limit=60, amount=1, theoretical_arrival=arrival, now=5 * SECOND).wait == SECOND
    assert decide_rate(limit=60, amount=60, theoretical_arrival=arrival, now=65 * SECOND).is_admitted
