"""Time, ids, months and money."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.errors import ValidationError
from tritium_platform.values import CURRENCY_DIGITS, CalendarMonth, Money, SystemClock, uuid7, uuids7_bytes

# Hypothesis takes naive limits and gives aware instants.
moments = st.datetimes(datetime(1970, 1, 1), datetime(2500, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
currencies = st.sampled_from(sorted(CURRENCY_DIGITS))


@given(moments, st.binary(min_size=8, max_size=8))
def test_an_id_is_a_uuid_of_version_7_that_holds_its_time(moment: datetime, random_bytes: bytes) -> None:
    identity = uuid7(ManualClock(moment), entropy=lambda _: random_bytes)
    assert identity.version == 7
    assert identity.variant == "specified in RFC 4122"
    assert identity.int >> 80 == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@given(moments, st.timedeltas(timedelta(microseconds=1), timedelta(days=9)))
def test_an_id_made_later_sorts_later(moment: datetime, wait: timedelta) -> None:
    earlier = uuid7(ManualClock(moment), entropy=lambda _: b"\xff" * 8)
    later = uuid7(ManualClock(moment + wait), entropy=lambda _: b"\0" * 8)
    assert earlier < later
    assert earlier.hex < later.hex


@pytest.mark.parametrize(
    ("currency", "shown"),
    [("ISK", "123456"), ("HUF", "1234.56"), ("MGA", "1234.56"), ("IQD", "123.456"), ("CLF", "12.3456")],
)
def test_a_currency_has_the_digits_of_iso_4217(currency: str, shown: str) -> None:
    assert str(Money(123456, currency)) == f"{shown} {currency}"


def test_every_currency_is_there_once_and_no_metal_fund_or_test_code_is_one() -> None:
    assert len(CURRENCY_DIGITS) == 158
    assert all(len(each) == 3 and each.isupper() for each in CURRENCY_DIGITS)
    assert CURRENCY_DIGITS.keys().isdisjoint({"XAU", "XDR", "XTS", "XXX", "BOV", "CHE", "USN", "XAD"})


def test_a_process_that_is_forked_makes_other_ids_than_its_parent() -> None:
    uuid7()  # something is left of the pool now
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"".join(uuid7().bytes[8:] for _ in range(100)))
        os._exit(0)
    mine = {uuid7().bytes[8:] for _ in range(100)}
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        its = pipe.read()
    os.waitpid(child, 0)
    assert len(its) == 800
    assert mine.isdisjoint(its[start : start + 8] for start in range(0, 800, 8))


def test_ten_thousand_ids_at_one_instant_differ() -> None:
    clock = ManualClock()
    assert len({uuid7(clock) for _ in range(10_000)}) == 10_000


def test_many_ids_of_one_instant_are_those_of_uuid7_in_ascending_order() -> None:
    clock = ManualClock()
    drawn = [bytes([number]) * 8 for number in (200, 3, 100)]
    made = uuids7_bytes(3, clock=clock, entropy=lambda _: b"".join(drawn))
    assert made == sorted(uuid7(clock, entropy=lambda _, each=each: each).bytes for each in drawn)
    assert uuids7_bytes(0, clock=clock) == []
    assert len(set(uuids7_bytes(10_000, clock=clock))) == 10_000


@given(moments)
def test_an_instant_lies_in_its_month_and_months_leave_no_gap(moment: datetime) -> None:
    month = CalendarMonth.of(moment)
    assert month.start <= moment < month.end
    assert month.next().start == month.end
    assert CalendarMonth.parse(str(month)) == month


def test_the_month_is_that_of_utc_whatever_the_zone_of_the_clock() -> None:
    local = datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    assert CalendarMonth.of(local) == CalendarMonth(2026, 11)


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-00", "26-11", "2026-1", "2026-११", "2026-11-01", "x"]
)
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        CalendarMonth.parse(text)


@given(st.lists(st.fractions(-(10**9), 10**9), max_size=20), currencies)
def test_a_total_of_rounded_lines_is_off_by_at_most_half_a_unit_per_line(
    exact: list[Fraction], currency: str
) -> None:
    total = Money.total((Money.rounded(each, currency=currency) for each in exact), currency=currency)
    assert abs(total.minor - sum(exact)) <= Fraction(len(exact), 2)


def test_rounding_is_half_to_even() -> None:
    halves = [Fraction(1, 2), Fraction(3, 2), Fraction(5, 2), Fraction(-1, 2), Fraction(-3, 2)]
    assert [Money.rounded(each, currency="USD").minor for each in halves] == [0, 2, 2, 0, -2]


@given(st.integers(), st.integers(), currencies)
def test_money_adds_like_integers(one: int, other: int, currency: str) -> None:
    first, second = Money(one, currency), Money(other, currency)
    assert (first + second) - second == first
    assert -first + first == Money.zero(currency)
    assert (first < second, first <= second) == (one < other, one <= other)


def test_money_is_written_with_the_digits_of_its_currency() -> None:
    assert [
        str(money) for money in (Money(1235, "USD"), Money(-5, "EUR"), Money(1235, "JPY"), Money(7, "KWD"))
    ] == [
        "12.35 USD",
        "-0.05 EUR",
        "1235 JPY",
        "0.007 KWD",
    ]


def test_money_of_two_currencies_does_not_mix_and_unknown_ones_are_refused() -> None:
    for mixed in (
        lambda: Money(1, "USD") + Money(1, "EUR"),
        lambda: Money(1, "USD") < Money(1, "EUR"),
        lambda: Money(1, "XXX"),
        lambda: Money(1.0, "USD"),
        lambda: Money(True, "USD"),
    ):
        with pytest.raises(ValidationError):
            mixed()


async def test_the_clock_of_the_machine_is_in_utc_and_goes_forward() -> None:
    clock = SystemClock()
    start = clock.monotonic_nanoseconds()
    await clock.sleep(0.01)
    assert clock.monotonic_nanoseconds() - start >= 9_000_000
    assert clock.now().tzinfo is UTC
