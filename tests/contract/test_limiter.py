"""Limiters against a bucket of fractions that is filled and emptied by hand, alone and among processes."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium_platform.adapters import shared_limiter
from tritium_platform.adapters.shared_limiter import SharedLimiter
from tritium_platform.errors import OverloadedError, ResourceError
from tritium_platform.quotas.limiter import CONCURRENCY, REQUEST_RATE, LocalLimiter, Refusal
from tritium_platform.quotas.ratelimit import MINUTE, SECOND
from tritium_platform.tenancy.model import TierLimits

WORKER = Path(__file__).with_name("limiter_worker.py")
MANY = 2**40
GATEWAYS = 3
KILLS = 12
START = 10**15


def limits_of(*, rate: int = MANY, tokens: int = MANY, places: int = MANY) -> TierLimits:
    return TierLimits(
        monthly_quota=MANY,
        max_model_size=MANY,
        requests_per_minute=rate,
        tokens_per_minute=tokens,
        max_concurrent_requests=places,
        max_storage=MANY,
        events_per_minute=MANY,
    )


@contextlib.contextmanager
def limiters(kind):
    """Yield what opens one more limiter on the state of those before; a local one shares nothing."""
    opened = []
    with tempfile.TemporaryDirectory() as directory:

        def open_one():
            opened.append(LocalLimiter() if kind == "local" else SharedLimiter(Path(directory) / "limits"))
            return opened[-1]

        yield open_one
        for each in opened:
            with contextlib.suppress(OSError, ValueError):
                each.close()


@pytest.fixture(params=["local", "shared"])
def limiter(request):
    with limiters(request.param) as open_one:
        yield open_one()


def enter(limiter, tenant, **ask):
    """Return why it was refused, None if it was not; what was said to be left is what is left."""
    decided = limiter.enter(tenant, **ask)
    if isinstance(decided, Refusal):
        return decided
    assert decided == limiter.standing(tenant, limits=ask["limits"], now=ask["now"])
    return None


# ---------------------------------------------------------------------- the oracle
@dataclass
class Bucket:
    """Units in a bucket, in fractions; it is filled whenever it is looked at."""

    limit: int
    level: Fraction
    at: int

    def look(self, limit, now):
        """Return what is in it, and go on from there under a limit: as much is missing as was."""
        level = min(Fraction(self.limit), self.level + Fraction((now - self.at) * self.limit, MINUTE))
        self.level = max(Fraction(0), limit - (self.limit - level))
        self.limit, self.at = limit, now
        return self.level

    def give_back(self, amount):
        self.level = min(Fraction(self.limit), self.level + amount)


@dataclass
class Oracle:
    """One tenant: two buckets, and who runs what."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    running: list[int] = field(default_factory=list)  # the gateway of each
    admitted: list[tuple[int, int, int]] = field(default_factory=list)

    def enters(self, gateway, limits, requests, tokens, now):
        rates = (limits.requests_per_minute, limits.tokens_per_minute)
        levels = [
            Fraction(rate) if bucket is None else bucket.look(rate, now)
            for bucket, rate in zip((self.requests, self.tokens), rates, strict=True)
        ]
        if len(self.running) + requests > limits.max_concurrent_requests:
            return False
        if requests > levels[0] or tokens > levels[1]:
            return False
        self.requests = Bucket(rates[0], levels[0] - requests, now)
        self.tokens = Bucket(rates[1], levels[1] - tokens, now)
        self.running += [gateway] * requests
        self.admitted.append((now, requests, tokens))
        return True


TENANTS = [UUID(int=1 << 64 | number) for number in range(2)]  # of two sets
PLANS = st.tuples(st.integers(0, 50), st.integers(0, 1000), st.integers(0, 6))
ENTER = st.tuples(
    st.just("enter"), st.integers(0, 2), st.integers(0, 1), st.integers(1, 3), st.integers(0, 400)
)
LEAVE = st.tuples(st.just("leave"), st.integers(0, 2), st.integers(0, 1), st.integers(0, 3), st.just(0))
DIE = st.tuples(st.just("die"), st.integers(0, 2), st.just(0), st.just(0), st.just(0))
PLAN = st.tuples(st.just("plan"), st.integers(0, 1), st.just(0), st.just(0), st.just(0))
STEPS = st.lists(
    st.tuples(st.integers(0, MINUTE // 2), st.one_of(ENTER, ENTER, LEAVE, DIE, PLAN)), max_size=40
)


@pytest.mark.parametrize("kind", ["local", "shared"])
@given(plans=st.lists(PLANS, min_size=2, max_size=2), steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_every_decision_is_that_of_a_bucket_of_fractions(kind, plans, steps):
    gateways = 1 if kind == "local" else GATEWAYS
    with limiters(kind) as open_one:
        opened = [open_one() for _ in range(gateways)]
        oracles, plan, now = {each: Oracle() for each in TENANTS}, 0, START
        for wait, (action, where, which, amount, tokens) in steps:
            now += wait
            gateway, tenant = where % gateways, TENANTS[which]
            oracle = oracles[tenant]
            limits = limits_of(rate=plans[plan][0], tokens=plans[plan][1], places=plans[plan][2])
            if action == "plan":
                plan = where
            elif action == "enter":
                ask = {"limits": limits, "requests": amount, "tokens": tokens}
                refusal = enter(opened[gateway], tenant, **ask, now=now)
                assert (refusal is None) == oracle.enters(gateway, limits, amount, tokens, now)
                if refusal is not None and refusal.wait:
                    # To the nanosecond: not one earlier, and then it is true.
                    now += refusal.wait - 1
                    other = opened[-1]
                    assert enter(other, tenant, **ask, now=now) is not None
                    now += 1
                    assert enter(other, tenant, **ask, now=now) is None
                    assert oracle.enters(gateways - 1, limits, amount, tokens, now)
            elif action == "leave" and gateway in oracle.running:
                oracle.running.remove(gateway)
                opened[gateway].leave(tenant, requests=1, tokens=amount)
                if oracle.tokens is not None:
                    oracle.tokens.look(oracle.tokens.limit, now)
                    oracle.tokens.give_back(amount)
            elif action == "die" and kind == "shared":
                opened[gateway].close()
                opened[gateway] = open_one()
                for each in oracles.values():
                    each.running = [one for one in each.running if one != gateway]
        for tenant, oracle in oracles.items():
            standing = opened[0].standing(tenant, limits=limits_of(), now=now)
            assert standing.running == len(oracle.running)


@pytest.mark.parametrize("kind", ["local", "shared"])
@given(
    limit=st.integers(1, 10**7),
    steps=st.lists(
        st.tuples(st.integers(0, 2 * MINUTE), st.integers(0, 2), st.integers(0, 100)), max_size=30
    ),
)
@settings(max_examples=60, deadline=None)
def test_no_window_of_time_admits_more_than_the_bucket_and_its_refill(kind, limit, steps):
    admitted, now = [], START
    with limiters(kind) as open_one:
        opened = [open_one() for _ in range(1 if kind == "local" else GATEWAYS)]
        for wait, gateway, percent in steps:
            now += wait
            amount = limit * percent // 100
            ask = {"limits": limits_of(tokens=limit), "requests": 1, "tokens": amount}
            if enter(opened[gateway % len(opened)], TENANTS[0], **ask, now=now) is None:
                admitted.append((now, amount))
    for first, (start, _) in enumerate(admitted):
        total = 0
        for end, amount in admitted[first:]:
            total += amount
            assert total * MINUTE <= limit * MINUTE + limit * (end - start)


# ---------------------------------------------------------------------- the contract, by example
def test_it_says_which_limit_and_how_long(limiter):
    tenant, limits = uuid4(), limits_of(rate=60, tokens=600, places=3)
    assert enter(limiter, tenant, limits=limits, requests=4, tokens=0, now=START) == (CONCURRENCY, 3, 4, None)
    assert enter(limiter, tenant, limits=limits, requests=1, tokens=601, now=START)[3] is None
    assert enter(limiter, tenant, limits=limits, requests=3, tokens=600, now=START) is None
    assert enter(limiter, tenant, limits=limits, requests=1, tokens=0, now=START) == (CONCURRENCY, 3, 3, 0)
    limiter.leave(tenant, requests=3)
    refusal = enter(limiter, tenant, limits=limits, requests=1, tokens=50, now=START)
    assert refusal == ("tokens per minute", 600, 600, 5 * SECOND)
    standing = limiter.standing(tenant, limits=limits, now=START)
    assert (standing.requests.remaining, standing.tokens.remaining, standing.running) == (57, 0, 0)


def test_nothing_is_taken_by_what_is_refused(limiter):
    tenant = uuid4()
    assert enter(limiter, tenant, limits=limits_of(tokens=10), requests=1, tokens=11, now=START) is not None
    standing = limiter.standing(tenant, limits=limits_of(rate=5, tokens=10), now=START)
    assert (standing.requests.remaining, standing.tokens.remaining, standing.running) == (5, 10, 0)


def test_a_limit_of_nothing_admits_nothing(limiter):
    assert enter(limiter, uuid4(), limits=limits_of(rate=0), requests=1, tokens=0, now=START).wait is None


def test_the_largest_numbers_are_kept_exactly(limiter):
    tenant, now, most = uuid4(), 2**62, 2**63 - 1
    limits = limits_of(rate=most, tokens=most)
    assert enter(limiter, tenant, limits=limits, requests=1, tokens=most, now=now) is None
    assert limiter.standing(tenant, limits=limits, now=now).tokens.remaining == 0
    assert enter(limiter, tenant, limits=limits, requests=1, tokens=most, now=now).wait == MINUTE


def test_tokens_that_are_given_back_never_fill_a_bucket_above_its_size(limiter):
    tenant, limits = uuid4(), limits_of(tokens=10)
    assert enter(limiter, tenant, limits=limits, requests=1, tokens=1, now=START) is None
    limiter.leave(tenant, requests=1, tokens=1000)
    assert limiter.standing(tenant, limits=limits, now=START).tokens.remaining == 10


def test_what_is_owed_counts_in_every_step_of_this_process_as_what_was_given_back(limiter):
    tenant, other = uuid4(), uuid4()
    limits = limits_of(tokens=10, places=2)
    for _ in range(3):
        assert enter(limiter, tenant, limits=limits, requests=2, tokens=10, now=START) is None
        limiter.owe(tenant, requests=1, tokens=4)
        limiter.owe(tenant, requests=1, tokens=6)
    assert enter(limiter, other, limits=limits, requests=1, tokens=3, now=START) is None
    limiter.owe(other, requests=1, tokens=1)
    assert limiter.standing(tenant, limits=limits, now=START).tokens.remaining == 10
    standing = limiter.standing(other, limits=limits, now=START)
    assert (standing.tokens.remaining, standing.running) == (8, 0)


def test_full_buckets_are_forgotten_and_others_are_not():
    limiter, limits = LocalLimiter(capacity=10), limits_of(rate=60)
    slow = [uuid4() for _ in range(20)]
    for tenant in slow:
        enter(limiter, tenant, limits=limits, requests=60, tokens=0, now=START)
    assert all(enter(limiter, each, limits=limits, requests=1, tokens=0, now=START) for each in slow)
    for number in range(200):
        enter(limiter, uuid4(), limits=limits, requests=1, tokens=0, now=START + (60 + number) * SECOND)
    assert len(limiter._rates) <= 11


# ---------------------------------------------------------------------- the table
@pytest.fixture
def directory(tmp_path):
    return tmp_path / "limits"


def of_one_set(count):
    """Tenants whose rows are in the same set."""
    return [UUID(int=number << 64 | 7) for number in range(1, count + 1)]


def test_a_full_set_gives_a_row_away_only_when_its_tenant_misses_nothing(directory):
    limiter, limits = SharedLimiter(directory), limits_of(rate=60)
    tenants = of_one_set(shared_limiter.WAYS + 1)
    for tenant in tenants[:-1]:
        assert enter(limiter, tenant, limits=limits, requests=1, tokens=0, now=START) is None
    with pytest.raises(OverloadedError):
        enter(limiter, tenants[-1], limits=limits, requests=1, tokens=0, now=START + 61 * SECOND)  # all run
    limiter.leave(tenants[5], requests=1)
    with pytest.raises(OverloadedError):
        enter(limiter, tenants[-1], limits=limits, requests=1, tokens=0, now=START)  # one misses a request
    later = START + SECOND
    assert enter(limiter, tenants[-1], limits=limits, requests=1, tokens=0, now=later) is None
    assert limiter.standing(tenants[5], limits=limits, now=later).running == 0
    assert limiter.standing(tenants[6], limits=limits, now=later).running == 1
    limiter.close()


def test_a_full_set_gives_away_the_rows_of_those_whose_gateway_is_dead(directory):
    dead, limits = SharedLimiter(directory), limits_of(rate=60)
    tenants = of_one_set(shared_limiter.WAYS + 1)
    for tenant in tenants[:-1]:
        assert enter(dead, tenant, limits=limits, requests=1, tokens=0, now=START) is None
    alive = SharedLimiter(directory)
    dead.close()
    later = START + 61 * SECOND
    assert enter(alive, tenants[-1], limits=limits, requests=1, tokens=0, now=later) is None
    assert alive.standing(tenants[-1], limits=limits, now=later).running == 1
    alive.close()


def test_places_of_a_dead_gateway_are_free_while_its_seat_is_held_for_its_spool(directory):
    dead, alive, limits = SharedLimiter(directory), SharedLimiter(directory), limits_of(places=2)
    assert enter(dead, TENANTS[0], limits=limits, requests=2, tokens=0, now=START) is None
    dead.close()
    with alive.vacant(dead.seat) as is_vacant:
        assert is_vacant
        assert enter(alive, TENANTS[0], limits=limits, requests=2, tokens=0, now=START) is None
    alive.close()


def test_rates_outlive_all_gateways_and_places_do_not(directory):
    limits = limits_of(rate=10, places=4)
    first = SharedLimiter(directory)
    assert enter(first, TENANTS[0], limits=limits, requests=4, tokens=0, now=START) is None
    first.close()
    second = SharedLimiter(directory)
    standing = second.standing(TENANTS[0], limits=limits, now=START)
    assert (standing.requests.remaining, standing.running) == (6, 0)
    second.close()


def test_a_table_of_another_boot_begins_anew_unless_somebody_uses_it(directory, monkeypatch):
    limits = limits_of(rate=10)
    first = SharedLimiter(directory)
    enter(first, TENANTS[0], limits=limits, requests=10, tokens=0, now=START)
    monkeypatch.setattr(shared_limiter, "boot_id", lambda: b"another".ljust(36))
    with pytest.raises(ResourceError, match="another machine"):
        SharedLimiter(directory)
    first.close()
    second = SharedLimiter(directory)
    assert second.standing(TENANTS[0], limits=limits, now=5).requests.remaining == 10
    second.close()


def test_one_gateway_more_than_there_are_seats_is_refused(directory):
    opened = [SharedLimiter(directory) for _ in range(shared_limiter.SEATS)]
    assert [each.seat for each in opened] == list(range(shared_limiter.SEATS))
    with pytest.raises(ResourceError, match="32 gateways"):
        SharedLimiter(directory)
    opened[5].close()
    again = SharedLimiter(directory)
    assert again.seat == 5
    for each in (*opened[:5], *opened[6:], again):
        each.close()


def test_a_holder_of_the_lock_that_stands_still_refuses_and_loses_nothing(directory, monkeypatch):
    monkeypatch.setattr(shared_limiter, "LOCK_SECONDS", 0.0)
    one, other, limits = SharedLimiter(directory), SharedLimiter(directory), limits_of(places=2)
    assert enter(one, TENANTS[0], limits=limits, requests=2, tokens=0, now=START) is None
    with other._locked:
        with pytest.raises(OverloadedError):
            enter(one, TENANTS[0], limits=limits, requests=1, tokens=0, now=START)
        one.leave(TENANTS[0], requests=2)  # owed until the table can be had
    assert enter(one, TENANTS[0], limits=limits, requests=2, tokens=0, now=START) is None
    one.close()
    other.close()


def test_what_is_owed_is_there_for_other_gateways_once_it_is_paid(directory):
    one, other, limits = SharedLimiter(directory), SharedLimiter(directory), limits_of(tokens=10, places=1)
    assert enter(one, TENANTS[0], limits=limits, requests=1, tokens=10, now=START) is None
    one.owe(TENANTS[0], requests=1, tokens=10)
    assert enter(other, TENANTS[0], limits=limits, requests=1, tokens=10, now=START) is not None
    one.pay()
    assert enter(other, TENANTS[0], limits=limits, requests=1, tokens=10, now=START) is None
    one.pay()
    assert one.standing(TENANTS[0], limits=limits, now=START).running == 1
    one.close()
    other.close()


def test_a_seat_whose_holder_was_killed_as_it_left_counts_nothing(directory):
    """Of the two steps, the count and the mark of the seat, only the first was done."""
    one, other, limits = SharedLimiter(directory), SharedLimiter(directory), limits_of(places=3)
    assert enter(one, TENANTS[0], limits=limits, requests=2, tokens=0, now=START) is None
    one._mark = lambda row, bit: None
    one.leave(TENANTS[0], requests=2)
    one.close()
    again = SharedLimiter(directory)
    assert again.seat == one.seat
    assert enter(other, TENANTS[0], limits=limits, requests=1, tokens=0, now=START) is None
    assert enter(again, TENANTS[0], limits=limits, requests=2, tokens=0, now=START) is None
    assert enter(other, TENANTS[0], limits=limits, requests=1, tokens=0, now=START) is not None
    again.close()
    other.close()


def test_a_closed_limiter_refuses_and_takes_back_without_a_word(directory):
    limiter, limits = SharedLimiter(directory), limits_of()
    assert enter(limiter, TENANTS[0], limits=limits, requests=1, tokens=0, now=START) is None
    limiter.close()
    limiter.close()
    limiter.leave(TENANTS[0], requests=1)
    with pytest.raises(OverloadedError):
        limiter.enter(TENANTS[0], limits=limits, requests=1, tokens=0, now=START)


# ---------------------------------------------------------------------- real processes
class Gateway:
    """A process that shares the limits of a directory."""

    def __init__(self, directory):
        self.process = subprocess.Popen(
            [sys.executable, WORKER, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, *command):
        print(*command, file=self.process.stdin, flush=True)

    def answer(self):
        return self.process.stdout.readline().strip()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


@pytest.fixture
def run(directory):
    """What starts gateways; they are killed when the test is over."""
    started = []

    def start(count):
        begun = [Gateway(directory) for _ in range(count)]
        started.extend(begun)
        assert all(int(each.answer()) >= 0 for each in begun)
        return begun

    yield start
    for each in started:
        each.kill()
        each.process.stdout.close()


def test_eight_processes_admit_exactly_the_hundred_of_a_minute(run):
    tenant, gateways = uuid4(), run(8)
    for each in gateways:
        each.tell("enter", tenant, 100, 100, MANY, START)
    assert sum(int(each.answer()) for each in gateways) == 100
    # Six seconds later there are ten more.
    for each in gateways:
        each.tell("enter", tenant, 100, 100, MANY, START + 6 * SECOND)
    assert sum(int(each.answer()) for each in gateways) == 10


def test_places_are_exact_among_processes_and_those_of_a_killed_one_come_back_at_once(run, directory):
    tenant, limits = uuid4(), limits_of(places=50)
    gateways = run(4)
    for each in gateways:
        each.tell("enter", tenant, 40, MANY, 50, START)
    taken = [int(each.answer()) for each in gateways]
    assert sum(taken) == 50
    mine = SharedLimiter(directory)
    assert enter(mine, tenant, limits=limits, requests=1, tokens=0, now=START) == (CONCURRENCY, 50, 50, 0)
    most = max(range(4), key=lambda number: taken[number])
    gateways[most].kill()
    (again,) = run(1)  # takes the seat of the dead, and none of its places
    again.tell("enter", tenant, 60, MANY, 50, START)
    assert int(again.answer()) == taken[most]
    again.kill()
    freed = sum(
        enter(mine, tenant, limits=limits, requests=1, tokens=0, now=START) is None for _ in range(60)
    )
    assert freed == taken[most]
    mine.close()


def test_no_death_in_the_middle_of_a_change_admits_one_more_or_breaks_the_table(run, directory):
    """Kill processes that do nothing but change one row, at any instruction; each can lose one at most."""
    tenant, rate, chance = uuid4(), 200_000, random.Random(7)
    acknowledged = 0
    for _ in range(KILLS // 4):
        gateways = run(4)
        for each in gateways:
            each.tell("hammer", tenant, rate, START)
        for each in gateways:
            acknowledged += len(os.read(each.process.stdout.fileno(), 1 + chance.randrange(2000)))
            each.kill()
            acknowledged += len(each.process.stdout.read())
    mine, limits, rest = SharedLimiter(directory), limits_of(rate=rate), 0
    rest = mine.standing(tenant, limits=limits, now=START).requests.remaining
    assert rate - KILLS <= acknowledged + rest <= rate
    refusal = enter(mine, tenant, limits=limits, requests=rest + 1, tokens=0, now=START)
    assert refusal.limit_name == REQUEST_RATE
    assert enter(mine, tenant, limits=limits, requests=rest, tokens=0, now=START) is None
    mine.leave(tenant, requests=rest)
    mine.close()


def test_processes_killed_while_they_come_and_go_leave_no_place_behind(run, directory):
    tenant, limits = uuid4(), limits_of(places=3)
    mine = SharedLimiter(directory)
    for _ in range(KILLS // 4):
        gateways = run(4)
        for each in gateways:
            each.tell("churn", tenant, 3, START)
        assert [each.answer() for each in gateways] == ["churning"] * 4
        for each in gateways:
            each.kill()
        assert enter(mine, tenant, limits=limits, requests=3, tokens=0, now=START) is None
        mine.leave(tenant, requests=3)
    mine.close()
