"""Rate limits: exact, never over-admitting, and honest about how long to wait."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tritium_platform.quotas.ratelimit import MINUTE, SECOND, RateLimiter, decide_rate

limits = st.integers(1, 10**7)
waits = st.integers(0, 2 * MINUTE)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A limit, and arrivals of (nanoseconds since the one before, amount)."""
    limit = draw(limits)
    return limit, draw(st.lists(st.tuples(waits, st.integers(0, limit)), max_size=40))


@given(arrivals())
@settings(max_examples=300)
def test_a_client_that_waits_as_told_is_admitted(case: tuple[int, list[tuple[int, int]]]) -> None:
    limit, steps = case
    limiter, now = RateLimiter(), 12_345
    for wait, amount in steps:
        now += wait
        decision = limiter.take("tenant", limit=limit, amount=amount, now=now)
        if not decision.is_admitted:
            assert decision.wait is not None
            retry_after = -(-decision.wait // SECOND)
            assert 1 <= retry_after <= 60
            now += retry_after * SECOND
            assert limiter.take("tenant", limit=limit, amount=amount, now=now).is_admitted


@given(arrivals())
@settings(max_examples=300)
def test_no_window_of_time_admits_more_than_the_bucket_and_its_refill(
    case: tuple[int, list[tuple[int, int]]],
) -> None:
    limit, steps = case
    limiter, now, admitted = RateLimiter(), 0, []
    for wait, amount in steps:
        now += wait
        if limiter.take("tenant", limit=limit, amount=amount, now=now).is_admitted:
            admitted.append((now, amount))
    for first, (start, _) in enumerate(admitted):
        total = 0
        for end, amount in admitted[first:]:
            total += amount
            assert total * MINUTE <= limit * MINUTE + limit * (end - start)


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


@given(limits, st.data())
def test_what_is_given_back_can_be_taken_again(limit: int, data: st.DataObject) -> None:
    amount = data.draw(st.integers(0, limit))
    limiter = RateLimiter()
    assert limiter.take("tenant", limit=limit, amount=limit, now=5).is_admitted
    limiter.give_back("tenant", limit=limit, amount=amount, now=5)
    assert limiter.status("tenant", limit=limit, now=5).remaining == amount
    assert limiter.take("tenant", limit=limit, amount=amount, now=5).is_admitted
    assert not limiter.take("tenant", limit=limit, amount=1, now=5).is_admitted


def test_giving_back_never_fills_a_bucket_above_its_size() -> None:
    limiter = RateLimiter()
    limiter.give_back("tenant", limit=10, amount=1000, now=0)
    assert limiter.take("tenant", limit=10, amount=10, now=0).is_admitted
    assert not limiter.take("tenant", limit=10, amount=1, now=0).is_admitted


def test_a_limit_of_zero_admits_nothing() -> None:
    assert RateLimiter().take("tenant", limit=0, amount=1, now=0).wait is None
    assert RateLimiter().take("tenant", limit=0, amount=0, now=0).is_admitted
    assert RateLimiter().status("tenant", limit=0, now=0).remaining == 0


def test_a_changed_limit_keeps_what_was_taken() -> None:
    limiter = RateLimiter()
    assert limiter.take("tenant", limit=10, amount=10, now=0).is_admitted
    assert limiter.status("tenant", limit=100, now=0).remaining == 90
    assert limiter.status("tenant", limit=5, now=0).remaining == 0


def test_buckets_that_are_full_again_are_forgotten() -> None:
    limiter = RateLimiter(capacity=10)
    for number in range(1000):
        limiter.take(number, limit=60, amount=1, now=number * SECOND)
    assert len(limiter._buckets) <= 11


def test_a_bucket_that_is_not_full_is_never_forgotten() -> None:
    limiter = RateLimiter(capacity=2)
    for number in range(50):
        limiter.take(number, limit=60, amount=60, now=0)
    assert not any(limiter.take(number, limit=60, amount=1, now=0).is_admitted for number in range(50))
