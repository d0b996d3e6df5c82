"""What prices a month: one plan, or one after the other where the plan changes within it: pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium_platform.billing.contract import UNTAXED
from tritium_platform.billing.rating.proration import part_of_period
from tritium_platform.errors import PlatformError
from tritium_platform.values import Interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from fractions import Fraction

    from tritium_platform.billing.contract import Contract
    from tritium_platform.billing.invoice import FiledLine
    from tritium_platform.billing.rating.plan import Plan
    from tritium_platform.billing.rating.tax import TaxStatus
    from tritium_platform.values import CalendarMonth


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTerms:
    """How a part of a month is priced.

    Attributes:
        part: how much of the month its prorated amounts are due for.
        interval: whose uses it prices; None: all of the month's, which is not cut.
    """

    plan: Plan
    plan_id: str
    part: Fraction
    interval: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a tenant's month is priced by: the last contract of it and its plan, and the parts in order."""

    plan: Plan
    plan_id: str
    contract: Contract | None
    parts: tuple[PartTerms, ...]

    @property
    def tax(self) -> TaxStatus:
        """Where the tenant is taxed; nowhere without a contract."""
        return self.contract.tax if self.contract else UNTAXED

    def require_parts_of(self, charged: Iterable[FiledLine]) -> None:
        """Refuse to price a month anew that has not the parts it was charged in; PlatformError."""
        if not {line.interval for line in charged} <= {part.interval for part in self.parts}:
            raise PlatformError("What was charged for a month does not fit the contracts of it.")

    def part_at(self, instant: datetime) -> PartTerms:
        """Return the part that prices a use of the month."""
        return next(each for each in self.parts if each.interval is None or each.interval.holds(instant))


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of a month and what prices it.

    Attributes:
        interval: whose uses are priced; None: the month is not cut.
        contract: None for the price list.
        covered: when the contract holds; what is prorated counts for that.
    """

    interval: Interval | None
    contract: Contract | None
    covered: Interval

    def priced_by(self, plan: Plan, plan_id: str, *, month: CalendarMonth) -> PartTerms:
        """Return how a plan prices this piece of a month."""
        part = part_of_period(
            month.start,
            month.end,
            active_from=self.covered.start,
            active_until=self.covered.end,
            by=plan.proration,
        )
        return PartTerms(plan=plan, plan_id=plan_id, part=part, interval=self.interval)


def cut_month(
    month: CalendarMonth, *, held: Sequence[tuple[Contract, Interval]], is_listed: bool
) -> tuple[Slice, ...]:
    """Cut a month where its contracts follow each other.

    Args:
        month: what is cut.
        held: its contracts, as `contracts_of` returns them; one at least.
        is_listed: whether the price list prices what no contract covers; else the contract before it does,
            and at the start of the month the one behind it.
    """
    starts = [month.start, *(covered.start for _, covered in held[1:]), month.end]
    slices: list[Slice] = []
    for (contract, covered), start, end in zip(held, starts[:-1], starts[1:], strict=True):
        if not is_listed:
            slices.append(Slice(Interval(start, end), contract, covered))
            continue
        before, behind = Interval(start, covered.start), Interval(covered.end, end)
        pieces = (Slice(before, None, before), Slice(covered, contract, covered), Slice(behind, None, behind))
        slices += [each for each in pieces if each.interval and each.interval.start < each.interval.end]
    if len(slices) == 1:
        return (Slice(None, slices[0].contract, slices[0].covered),)
    return tuple(slices)


def choose_cut(cuts: Sequence[tuple[Slice, ...]], *, charged: Iterable[Interval | None]) -> tuple[Slice, ...]:
    """Return the first cut that has every part which was charged for already; the first one if none has."""
    known = frozenset(charged)
    return next((cut for cut in cuts if known <= {each.interval for each in cut}), cuts[0])
