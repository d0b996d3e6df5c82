"""Deadlines, retries and breakers, with time and chance in the test's hands."""

from __future__ import annotations

import asyncio
import errno
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.breaker import Bulkhead, CircuitBreaker
from tritium_platform.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    ErrorCategory,
    InvalidTokenError,
    OverloadedError,
    PlatformError,
    ResourceError,
    RetriesExhaustedError,
    ValidationError,
)
from tritium_platform.resilience import Deadline, ResilientCaller
from tritium_platform.retry import RetryBudget, RetryPolicy, classify_error


class Neighbour:
    """Fails as scripted, then answers."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.deadlines: list[Deadline] = []

    async def __call__(self, deadline: Deadline) -> str:
        self.deadlines.append(deadline)
        if self.failures:
            raise self.failures.pop(0)
        return "answer"

    @property
    def calls(self) -> int:
        return len(self.deadlines)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def caller(clock: ManualClock, **parts: object) -> ResilientCaller:
    return ResilientCaller(neighbour="the neighbour", clock=clock, randomness=random.Random(7), **parts)


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (TimeoutError(), ErrorCategory.TRANSIENT),
        (ConnectionResetError(), ErrorCategory.TRANSIENT),
        (OverloadedError("busy"), ErrorCategory.TRANSIENT),
        (MemoryError(), ErrorCategory.RESOURCE_EXHAUSTED),
        (OSError(errno.ENOSPC, "full"), ErrorCategory.RESOURCE_EXHAUSTED),
        (ResourceError("full"), ErrorCategory.RESOURCE_EXHAUSTED),
        (ValueError(), ErrorCategory.PERMANENT),
        (FileNotFoundError(), ErrorCategory.PERMANENT),
        (ValidationError("wrong"), ErrorCategory.PERMANENT),
        (InvalidTokenError(), ErrorCategory.PERMANENT),
        (asyncio.CancelledError(), ErrorCategory.PERMANENT),
        (PlatformError("broken"), ErrorCategory.SYSTEM_CRITICAL),
        (OSError(errno.EIO, "disk"), ErrorCategory.SYSTEM_CRITICAL),
        (AssertionError(), ErrorCategory.SYSTEM_CRITICAL),
    ],
)
def test_every_error_has_one_of_five_categories(error: BaseException, category: ErrorCategory) -> None:
    assert classify_error(error) is category


async def test_a_passing_trouble_is_waited_out(clock: ManualClock) -> None:
    neighbour = Neighbour(ConnectionResetError(), TimeoutError())
    deadline = Deadline.after(clock, seconds=60)
    assert await caller(clock).call(neighbour, deadline=deadline) == "answer"
    assert neighbour.calls == 3
    assert 0 < clock.monotonic_nanoseconds() < 0.3e9


@pytest.mark.parametrize("error", [ValidationError("wrong"), ResourceError("full"), PlatformError("broken")])
async def test_what_another_attempt_cannot_help_is_raised_at_once(
    clock: ManualClock, error: Exception
) -> None:
    neighbour = Neighbour(error)
    with pytest.raises(type(error)):
        await caller(clock).call(neighbour, deadline=Deadline.after(clock, seconds=60))
    assert neighbour.calls == 1


async def test_the_wait_that_a_neighbour_asks_for_is_kept(clock: ManualClock) -> None:
    neighbour = Neighbour(OverloadedError("busy", retry_after=7))
    await caller(clock).call(neighbour, deadline=Deadline.after(clock, seconds=60))
    assert clock.monotonic_nanoseconds() >= 7e9


async def test_after_the_last_attempt_the_cause_is_attached(clock: ManualClock) -> None:
    neighbour = Neighbour(*(ConnectionResetError(str(number)) for number in range(9)))
    with pytest.raises(RetriesExhaustedError) as caught:
        await caller(clock).call(neighbour, deadline=Deadline.after(clock, seconds=60))
    assert neighbour.calls == 4
    assert str(caught.value.__cause__) == "3"


async def test_nobody_waits_past_the_deadline(clock: ManualClock) -> None:
    neighbour = Neighbour(OverloadedError("busy", retry_after=7))
    with pytest.raises(DeadlineExceededError):
        await caller(clock).call(neighbour, deadline=Deadline.after(clock, seconds=5))
    assert clock.monotonic_nanoseconds() < 5e9
    with pytest.raises(DeadlineExceededError):
        await caller(clock).call(neighbour, deadline=Deadline(clock.monotonic_nanoseconds()))
    assert neighbour.calls == 1


async def test_an_attempt_gets_a_deadline_that_is_never_later_than_the_whole(clock: ManualClock) -> None:
    neighbour = Neighbour()
    policy = RetryPolicy(attempt_seconds=10)
    whole = Deadline.after(clock, seconds=3)
    await caller(clock, policy=policy).call(neighbour, deadline=whole)
    await caller(clock, policy=policy).call(neighbour, deadline=Deadline.after(clock, seconds=60))
    assert neighbour.deadlines == [whole, Deadline(10_000_000_000)]


async def test_an_attempt_that_hangs_is_cut_off(clock: ManualClock) -> None:
    async def hang(_: Deadline) -> None:
        await asyncio.sleep(60)

    policy = RetryPolicy(max_attempts=1, attempt_seconds=0.02)
    with pytest.raises(RetriesExhaustedError) as caught:
        await caller(clock, policy=policy).call(hang, deadline=Deadline.after(clock, seconds=60))
    assert isinstance(caught.value.__cause__, TimeoutError)


@given(st.integers(1, 200), st.integers(0, 2**32))
def test_a_backoff_lies_anywhere_below_its_ceiling(attempt: int, seed: int) -> None:
    policy = RetryPolicy(base_delay=0.1, max_delay=5)
    wait = policy.backoff(attempt, randomness=random.Random(seed))
    assert 0 <= wait <= min(5, 0.1 * 2 ** (attempt - 1))


async def test_in_an_outage_retries_add_no_more_than_the_budget(clock: ManualClock) -> None:
    budget = RetryBudget(capacity=5)
    calls = 0
    for _ in range(100):
        neighbour = Neighbour(*(TimeoutError() for _ in range(9)))
        with pytest.raises(RetriesExhaustedError):
            await caller(clock, budget=budget).call(neighbour, deadline=Deadline.after(clock, seconds=600))
        calls += neighbour.calls
    assert calls == 105
    for _ in range(10):
        await caller(clock, budget=budget).call(Neighbour(), deadline=Deadline.after(clock, seconds=600))
    assert budget.take()
    assert not budget.take()


async def test_a_failing_neighbour_gets_a_pause_then_one_probe(clock: ManualClock) -> None:
    breaker = CircuitBreaker(neighbour="the neighbour", clock=clock, min_failures=3, open_seconds=10)
    policy = RetryPolicy(max_attempts=1)

    async def call(neighbour: Neighbour) -> str:
        resilient = caller(clock, policy=policy, breaker=breaker, budget=RetryBudget())
        return await resilient.call(neighbour, deadline=Deadline.after(clock, seconds=60))

    for _ in range(3):
        assert breaker.state == "closed"
        with pytest.raises(RetriesExhaustedError):
            await call(Neighbour(TimeoutError()))
    untouched = Neighbour()
    with pytest.raises(CircuitOpenError) as caught:
        await call(untouched)
    assert (breaker.state, untouched.calls, caught.value.details["retry_after"]) == ("open", 0, 10)
    clock.advance(seconds=10)
    assert breaker.state == "half_open"
    with pytest.raises(RetriesExhaustedError):
        await call(Neighbour(TimeoutError()))
    assert breaker.state == "open"
    clock.advance(seconds=10)
    breaker.enter()
    with pytest.raises(CircuitOpenError):
        breaker.enter()
    breaker.succeeded()
    assert (breaker.state, await call(Neighbour())) == ("closed", "answer")


async def test_a_cancelled_probe_lets_the_next_one_through(clock: ManualClock) -> None:
    breaker = CircuitBreaker(neighbour="the neighbour", clock=clock, min_failures=1, open_seconds=1)
    breaker.failed()
    clock.advance(seconds=1)
    with pytest.raises(asyncio.CancelledError):
        await caller(clock, breaker=breaker).call(
            Neighbour(asyncio.CancelledError()), deadline=Deadline.after(clock, seconds=5)
        )
    assert await caller(clock, breaker=breaker).call(Neighbour(), deadline=Deadline.after(clock, seconds=5))


async def test_wrong_requests_do_not_open_the_breaker(clock: ManualClock) -> None:
    breaker = CircuitBreaker(neighbour="the neighbour", clock=clock, min_failures=2)
    for _ in range(20):
        with pytest.raises(ValidationError):
            await caller(clock, breaker=breaker).call(
                Neighbour(ValidationError("wrong")), deadline=Deadline.after(clock, seconds=5)
            )
    assert breaker.state == "closed"


async def test_a_bulkhead_lets_so_many_in_and_the_rest_wait_or_give_up(clock: ManualClock) -> None:
    running, most, gate = 0, 0, asyncio.Event()

    async def slow(_: Deadline) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return "answer"

    bulkhead = Bulkhead(neighbour="the neighbour", places=2)
    calls = [
        asyncio.create_task(
            caller(clock, bulkhead=bulkhead).call(slow, deadline=Deadline.after(clock, seconds=60))
        )
        for _ in range(5)
    ]
    await asyncio.sleep(0.01)
    with pytest.raises(OverloadedError, match="Too many calls"):
        await caller(clock, bulkhead=bulkhead).call(slow, deadline=Deadline.after(clock, seconds=0.01))
    gate.set()
    assert await asyncio.gather(*calls) == ["answer"] * 5
    assert most == 2


class Batch:
    """An operation on so many items; its neighbour takes at most `most` of them."""

    def __init__(self, items: int, *, most: int, clock: ManualClock) -> None:
        self.items, self.most, self.clock = items, most, clock
        self.tried: list[int] = []

    async def __call__(self, _: Deadline) -> int:
        self.tried.append(self.items)
        if self.items > self.most:
            raise ResourceError("too much")
        return self.items

    def halve(self) -> bool:
        if self.items == 1:
            return False
        self.items //= 2
        return True


async def test_what_exhausts_a_resource_is_tried_smaller_at_once(clock: ManualClock) -> None:
    batch, budget = Batch(100, most=20, clock=clock), RetryBudget(capacity=0)
    resilient = caller(clock, policy=RetryPolicy(max_attempts=1), budget=budget)
    deadline = Deadline.after(clock, seconds=1)
    assert await resilient.call(batch, deadline=deadline, shrink=batch.halve) == 12
    assert batch.tried == [100, 50, 25, 12]
    assert clock.monotonic_nanoseconds() == 0


async def test_what_is_as_small_as_can_be_is_refused_in_its_own_words(clock: ManualClock) -> None:
    batch = Batch(5, most=0, clock=clock)
    with pytest.raises(ResourceError, match="too much"):
        await caller(clock).call(batch, deadline=Deadline.after(clock, seconds=1), shrink=batch.halve)
    assert batch.tried == [5, 2, 1]


async def test_nothing_is_made_smaller_for_another_reason_or_after_the_deadline(clock: ManualClock) -> None:
    calls = 0

    def shrink() -> bool:
        nonlocal calls
        calls += 1
        clock.advance(seconds=2)
        return True

    neighbour = Neighbour(ConnectionResetError(), OverloadedError("busy"))
    assert await caller(clock).call(neighbour, deadline=Deadline.after(clock, seconds=60), shrink=shrink)
    with pytest.raises(ValidationError):
        await caller(clock).call(
            Neighbour(ValidationError("wrong")), deadline=Deadline.after(clock, seconds=60), shrink=shrink
        )
    assert calls == 0
    for_ever = Neighbour(*(MemoryError() for _ in range(99)))
    with pytest.raises(DeadlineExceededError):
        await caller(clock).call(for_ever, deadline=Deadline.after(clock, seconds=9), shrink=shrink)
    assert (calls, for_ever.calls) == (5, 5)


async def test_a_smaller_operation_has_attempts_of_its_own(clock: ManualClock) -> None:
    lost = [ConnectionResetError() for _ in range(3)]
    neighbour = Neighbour(*lost, MemoryError(), *lost)
    policy = RetryPolicy(max_attempts=4)
    deadline = Deadline.after(clock, seconds=60)
    assert await caller(clock, policy=policy).call(neighbour, deadline=deadline, shrink=lambda: True)
    assert neighbour.calls == 8
