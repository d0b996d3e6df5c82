"""What an invoice says about a month, and about earlier months whose use came late: a pure function.

A late use is never priced by itself: its month is priced again as a whole, and a line says by how much that
differs from what was charged. So a late use costs what it would have cost in time, with tiers and discounts.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from tritium_platform.billing.rating.plan import Line
from tritium_platform.billing.rating.rate import rate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium_platform.billing.invoice import FiledLine
    from tritium_platform.billing.rating.plan import Plan, Usage
    from tritium_platform.values import CalendarMonth

LineKey = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthTerms:
    """How a month is priced: by which plan, and which part of it is covered."""

    plan: Plan
    plan_id: str
    part: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthFacts:
    """A month: how it is priced, what was used in it, and what was charged for it before."""

    terms: MonthTerms
    usage: Sequence[Usage]
    charged: Sequence[FiledLine] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLine:
    """A line and its month; `charged` is what earlier invoices charged for the same (minor units, net)."""

    month: CalendarMonth
    plan_id: str
    line: Line
    is_adjustment: bool
    charged: int = 0


def draft_lines(period: CalendarMonth, *, months: Mapping[CalendarMonth, MonthFacts]) -> list[DraftLine]:
    """Return the lines of an invoice before tax: those of its period, then what changed of earlier months."""
    order = sorted(months, key=lambda month: (month != period, month))
    return [line for month in order for line in _lines_of(month, facts=months[month], period=period)]


def _lines_of(month: CalendarMonth, *, facts: MonthFacts, period: CalendarMonth) -> list[DraftLine]:
    terms = facts.terms
    now = {line.key: line for line in rate(terms.plan, usage=facts.usage, part=terms.part)}
    if month == period and not facts.charged:
        return [
            DraftLine(month=month, plan_id=terms.plan_id, line=line, is_adjustment=False)
            for line in now.values()
        ]
    quantities: dict[LineKey, int] = {}
    nets: dict[LineKey, int] = {}
    for filed in facts.charged:
        quantities[filed.key] = quantities.get(filed.key, 0) + filed.quantity
        nets[filed.key] = nets.get(filed.key, 0) + filed.net_minor
    differences = []
    for key in [*now, *(key for key in nets if key not in now)]:
        line = _difference(key, now.get(key), quantity=quantities.get(key, 0), net=nets.get(key, 0))
        if line.amount or line.quantity:
            differences.append(
                DraftLine(
                    month=month,
                    plan_id=terms.plan_id,
                    line=line,
                    is_adjustment=True,
                    charged=nets.get(key, 0),
                )
            )
    return differences


def _difference(key: LineKey, now: Line | None, *, quantity: int, net: int) -> Line:
    """Return the line that is missing between what was charged and what a month comes to now."""
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
