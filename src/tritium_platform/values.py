"""Time, ids, months and money: the values that everything else is counted in."""

from __future__ import annotations

import asyncio
import os
import struct
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol, Self
from uuid import UUID

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager
    from fractions import Fraction

MONTHS_IN_YEAR = 12
_RANDOM_BITS = (1 << 62) - 1  # of a UUID version 7
_LOW_BITS = (1 << 64) - 1

# ISO 4217: the currencies by their digits after the decimal point, without metals, funds and test codes. A
# currency that is not here is refused, never guessed.
_CURRENCIES = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: """
        AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF
        CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL
        HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT
        MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB
        SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH
        USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
    """,
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
CURRENCY_DIGITS = {currency: digits for digits, some in _CURRENCIES.items() for currency in some.split()}


class Clock(Protocol):
    """Where time comes from, so that a test can own it."""

    def now(self) -> datetime:
        """Return the current instant with the UTC time zone."""
        ...

    def monotonic_nanoseconds(self) -> int:
        """Return a count of nanoseconds that never goes back; its zero means nothing."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for that many seconds of this clock."""
        ...


class UnitOfWork(Protocol):
    """Opens a transaction: what the stores write inside commits together or not at all.

    `async with unit_of_work(): ...`; a unit inside a unit joins the outer one. Do not start tasks inside:
    they would write through the same transaction.
    """

    def __call__(self) -> AbstractAsyncContextManager[None]:
        """Return the context of one transaction."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the current instant with the UTC time zone."""
        return datetime.now(UTC)

    def monotonic_nanoseconds(self) -> int:
        """Return a count of nanoseconds that never goes back."""
        return time.monotonic_ns()

    async def sleep(self, seconds: float) -> None:
        """Wait for that many seconds."""
        await asyncio.sleep(seconds)


class _Entropy:
    """Random bytes of the operating system, taken many at a time: asking costs more than making an id."""

    POOL_BYTES = 4096

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew; a process that was forked must not hand out what its parent does."""
        self._lock = threading.Lock()
        self._pool, self._used = b"", 0

    def __call__(self, size: int) -> bytes:
        """Return bytes that nobody got before."""
        with self._lock:
            if self._used + size > len(self._pool):
                self._pool, self._used = os.urandom(max(size, self.POOL_BYTES)), 0
            self._used += size
            return self._pool[self._used - size : self._used]


_entropy = _Entropy()
os.register_at_fork(after_in_child=_entropy.forget)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def uuid7(clock: Clock | None = None, *, entropy: Callable[[int], bytes] = _entropy) -> UUID:
    """Return a UUID version 7 (RFC 9562): ids made later sort later, to a quarter of a microsecond.

    48 bits of milliseconds, 12 bits of the fraction of the millisecond, 62 random bits.
    """
    random_bits = int.from_bytes(entropy(8), "big") & _RANDOM_BITS
    return UUID(int=_timed_bits(clock or SystemClock()) | random_bits)


def uuids7_bytes(
    count: int, *, clock: Clock | None = None, entropy: Callable[[int], bytes] = _entropy
) -> list[bytes]:
    """Return UUIDs version 7 of one instant, in ascending order, each as its 16 bytes.

    Objects of thousands of UUIDs cost more to make, and to look for circles among, than what they name.
    """
    timed = _timed_bits(clock or SystemClock())
    head, variant = (timed >> 64).to_bytes(8), timed & _LOW_BITS
    drawn = struct.unpack(f">{count}Q", entropy(8 * count))
    return [head + (variant | bits).to_bytes(8) for bits in sorted(each & _RANDOM_BITS for each in drawn)]


def _timed_bits(clock: Clock) -> int:
    """Return what all UUIDs of this instant begin with, version and variant included."""
    microseconds = (clock.now() - _EPOCH) // _MICROSECOND
    milliseconds, rest = divmod(microseconds, 1000)
    return milliseconds << 80 | 7 << 76 | (rest * 4096 // 1000) << 64 | 2 << 62


@dataclass(frozen=True, slots=True, order=True)
class CalendarMonth:
    """A month in UTC: the period of quotas and invoices."""

    year: int
    month: int

    def __post_init__(self) -> None:
        if not (1 <= self.month <= MONTHS_IN_YEAR and 1 <= self.year <= 9998):  # noqa: PLR2004 - datetime's range
            raise ValidationError(f"{self.year}-{self.month} is not a calendar month.")

    @classmethod
    def of(cls, instant: datetime) -> Self:
        """Return the month in which an aware instant lies."""
        utc = instant.astimezone(UTC)
        return cls(utc.year, utc.month)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form `2026-11`; ValidationError for anything else."""
        year, dash, month = text.partition("-")
        well_formed = dash and len(year) == len("2026") and len(month) == len("11")
        if not (well_formed and text.isascii() and year.isdigit() and month.isdigit()):
            raise ValidationError(f"'{text[:20]}' is not a month: write it as 2026-11.", field="period")
        return cls(int(year), int(month))

    @property
    def start(self) -> datetime:
        """The first instant of the month."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first instant after the month."""
        return self.next().start

    @property
    def interval(self) -> Interval:
        """All of the month."""
        return Interval(self.start, self.end)

    def next(self) -> CalendarMonth:
        """Return the following month."""
        later, month = divmod(self.month, MONTHS_IN_YEAR)
        return CalendarMonth(self.year + later, month + 1)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"


@dataclass(frozen=True, slots=True)
class Interval:
    """The time from one aware instant on, until before another one."""

    start: datetime
    end: datetime

    def holds(self, instant: datetime) -> bool:
        """Return whether an instant lies in it."""
        return self.start <= instant < self.end

    def __str__(self) -> str:
        return f"{self.start.isoformat()}/{self.end.isoformat()}"


@dataclass(frozen=True, slots=True)
class Money:
    """An exact amount: an integer count of the currency's minor unit (cents of USD, whole JPY)."""

    minor: int
    currency: str

    def __post_init__(self) -> None:
        if self.currency not in CURRENCY_DIGITS:
            raise ValidationError(f"The currency '{self.currency[:10]}' is not known.", field="currency")
        if type(self.minor) is not int:
            raise ValidationError("Money is counted in whole minor units.", field="minor")

    @classmethod
    def rounded(cls, exact_minor: Fraction, *, currency: str) -> Self:
        """Round an exact amount of minor units once, half to even."""
        return cls(round(exact_minor), currency)

    @classmethod
    def zero(cls, currency: str) -> Self:
        """Return nothing of that currency."""
        return cls(0, currency)

    @classmethod
    def total(cls, amounts: Iterable[Money], *, currency: str) -> Self:
        """Add amounts of one currency; ValidationError if another one is among them."""
        result = cls.zero(currency)
        for amount in amounts:
            result += amount
        return result

    def _same(self, other: Money) -> None:
        if self.currency != other.currency:
            raise ValidationError(f"{self.currency} and {other.currency} cannot be added or compared.")

    def __add__(self, other: Money) -> Self:
        self._same(other)
        return type(self)(self.minor + other.minor, self.currency)

    def __sub__(self, other: Money) -> Self:
        self._same(other)
        return type(self)(self.minor - other.minor, self.currency)

    def __neg__(self) -> Self:
        return type(self)(-self.minor, self.currency)

    def __lt__(self, other: Money) -> bool:
        self._same(other)
        return self.minor < other.minor

    def __le__(self, other: Money) -> bool:
        self._same(other)
        return self.minor <= other.minor

    def __str__(self) -> str:
        digits = CURRENCY_DIGITS[self.currency]
        whole, rest = divmod(abs(self.minor), 10**digits)
        sign = "-" if self.minor < 0 else ""
        fraction = f".{rest:0{digits}d}" if digits else ""
        return f"{sign}{whole}{fraction} {self.currency}"
