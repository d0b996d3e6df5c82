"""What an invoice says about a month, and about earlier months whose use came late: a pure function.

A late use is never priced by itself: its month is priced again as a whole, and a line says by how much that
differs from what was charged. So a late use costs what it would have cost in time, with tiers and discounts.
Where the plan changes within a month, each part of it is priced as a period of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from tritium_platform.billing.rating.plan import Line
from tritium_platform.billing.rating.rate import add_exact, rate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium_platform.billing.invoice import FiledLine
    from tritium_platform.billing.rating.plan import LineKey, Usage
    from tritium_platform.billing.terms import PartTerms
    from tritium_platform.values import CalendarMonth, Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFacts:
    """A part of a month: how it is priced, what was used in it, and what was charged for it before."""

    terms: PartTerms
    usage: Sequence[Usage]
    charged: Sequence[FiledLine] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLine:
    """A line and its month; `charged` is what earlier invoices charged for the same (minor units, net).

    `interval` is the part of the month that it is about; None: the month is not cut.
    """

    month: CalendarMonth
    plan_id: str
    line: Line
    is_adjustment: bool
    charged: int = 0
    interval: Interval | None = None


def total_of(lines: Sequence[DraftLine]) -> int:
    """Return what lines come to with their taxes, in minor units."""
    return sum(each.line.net + each.line.tax for each in lines)


def draft_lines(
    period: CalendarMonth, *, months: Mapping[CalendarMonth, Sequence[PartFacts]]
) -> list[DraftLine]:
    """Return the lines of an invoice before tax: those of its period, then what changed of earlier months."""
    order = sorted(months, key=lambda month: (month != period, month))
    return [line for month in order for line in _lines_of(month, parts=months[month], period=period)]


def rate_parts(parts: Sequence[PartFacts]) -> list[Sequence[Line]]:
    """Price the parts of a month before tax; what one plan charges in several parts is rounded as one sum."""
    rated: list[Sequence[Line]] = []
    sums: dict[str, dict[LineKey, Fraction]] = {}
    for facts in parts:
        terms = facts.terms
        before = sums.get(terms.plan_id, {})
        lines = rate(terms.plan, usage=facts.usage, part=terms.part, before=before)
        sums[terms.plan_id] = add_exact(before, plan=terms.plan, lines=lines, part=terms.part)
        rated.append(lines)
    return rated


def _lines_of(month: CalendarMonth, *, parts: Sequence[PartFacts], period: CalendarMonth) -> list[DraftLine]:
    is_new = month == period and not any(facts.charged for facts in parts)
    return [
        DraftLine(
            month=month,
            plan_id=facts.terms.plan_id,
            line=line,
            is_adjustment=not is_new,
            charged=before,
            interval=facts.terms.interval,
        )
        for facts, rated in zip(parts, rate_parts(parts), strict=True)
        for line, before in ([(line, 0) for line in rated] if is_new else _differences(facts, rated))
    ]


def _differences(facts: PartFacts, rated: Sequence[Line]) -> list[tuple[Line, int]]:
    """Return what is missing between what was charged and what a part comes to now, and what was charged."""
    now = {line.key: line for line in rated}
    quantities: dict[LineKey, int] = {}
    nets: dict[LineKey, int] = {}
    for filed in facts.charged:
        quantities[filed.key] = quantities.get(filed.key, 0) + filed.quantity
        nets[filed.key] = nets.get(filed.key, 0) + filed.net_minor
    differences = []
    for key in [*now, *(key for key in nets if key not in now)]:
        net = nets.get(key, 0)
        line = _difference(key, now.get(key), quantity=quantities.get(key, 0), net=net)
        if line.amount or line.quantity:
            differences.append((line, net))
    return differences


def _difference(key: LineKey, now: Line | None, *, quantity: int, net: int) -> Line:
    """Return the line that is missing to what a line of the part comes to now."""
    now = now or Line(charge=key[0], cell=key[1], exact=Fraction(0), amount=0)
    amount = now.net - net
    return Line(
        charge=now.charge,
        cell=now.cell,
        meter=now.meter,
        tier=now.tier,
        quantity=now.quantity - quantity,
        exact=Fraction(amount),
        amount=amount,
        tax_category=now.tax_category,
    )
