"""From what was used to what it costs: one line per charge, each rounded once; parts sum to the whole."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from tritium_platform.billing.rating.discount import take_off
from tritium_platform.billing.rating.matrix import MatrixPrice
from tritium_platform.billing.rating.plan import COMMITMENT, NOTHING, Line
from tritium_platform.billing.rating.rounding import round_once
from tritium_platform.billing.rating.tax import code_of, tax_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium_platform.billing.rating.plan import Charge, LineKey, Plan, Usage
    from tritium_platform.billing.rating.tax import TaxStatus

WHOLE = Fraction(1)
PROMISED = COMMITMENT, ()


def rate(
    plan: Plan,
    *,
    usage: Sequence[Usage],
    part: Fraction = WHOLE,
    before: Mapping[LineKey, Fraction] | None = None,
) -> tuple[Line, ...]:
    """Price a period before tax: the charges, what is taken off, and what is missing to the commitment.

    Args:
        plan: the prices.
        usage: sums or single uses, in any order: only the sums matter.
        part: the part of the period that the contract covers.
        before: the exact amounts of earlier parts of the period at the same plan, from `add_exact`: with them
            each sum is rounded, so that parts come to what the whole comes to.
    """
    before = before or {}
    lines = [
        _rounded(line, plan=plan, before=before.get(line.key))
        for charge in plan.charges
        for line in _lines_of(charge, plan=plan, usage=usage, part=part)
    ]
    taken = take_off(
        plan.discounts,
        charges=[line.charge for line in lines],
        amounts=[line.amount for line in lines],
        rounding=plan.rounding,
    )
    lines = [
        replace(line, discount=discount) if discount else line
        for line, discount in zip(lines, taken, strict=True)
    ]
    return (*lines, *_commitment_line(plan, lines=lines, part=part, before=before.get(PROMISED, NOTHING)))


def add_exact(
    before: Mapping[LineKey, Fraction], *, plan: Plan, lines: Sequence[Line], part: Fraction
) -> dict[LineKey, Fraction]:
    """Return the exact amounts of some parts of a period and of one more."""
    promised = before.get(PROMISED, NOTHING) + plan.commitment * part
    charged = {line.key: before.get(line.key, NOTHING) + line.exact for line in lines}
    return {**before, **charged, PROMISED: promised}


def add_taxes(
    lines: Sequence[Line], *, plan: Plan, status: TaxStatus, rates: Sequence[Fraction]
) -> tuple[Line, ...]:
    """Put the tax on each line, at the rate of each."""
    taxes = tax_lines([line.net for line in lines], rates=rates, basis=plan.tax_basis, rounding=plan.rounding)
    return tuple(
        replace(
            line,
            tax=tax,
            tax_rate=each,
            tax_code=code_of(each, status=status, category=line.tax_category),
        )
        for line, tax, each in zip(lines, taxes, rates, strict=True)
    )


def _rounded(line: Line, *, plan: Plan, before: Fraction | None) -> Line:
    if before is None:
        return line
    sums = [round_once(each, rounding=plan.rounding) for each in (before, before + line.exact)]
    return replace(line, amount=sums[1] - sums[0])


def _lines_of(charge: Charge, *, plan: Plan, usage: Sequence[Usage], part: Fraction) -> list[Line]:
    if charge.meter is None:
        return [_line(charge, plan=plan, quantity=1, included=0, part=part)]
    mine = [use for use in usage if use.meter is charge.meter and charge.tier in (None, use.tier)]
    if isinstance(charge.price, MatrixPrice):
        return _lines_of_matrix(charge, charge.price, plan=plan, usage=mine)
    quantity = sum(use.quantity for use in mine)
    if not quantity and not charge.minimum:
        return []
    return [_line(charge, plan=plan, quantity=quantity, included=min(quantity, charge.included), part=part)]


def _line(charge: Charge, *, plan: Plan, quantity: int, included: int, part: Fraction) -> Line:
    assert not isinstance(charge.price, MatrixPrice)  # noqa: S101 - its lines are made per cell
    part = part if charge.is_prorated else WHOLE
    cost = charge.price.cost(quantity - included)
    if charge.meter is None:
        cost *= part
    exact = max(cost, charge.minimum * part)
    return Line(
        charge=charge.name,
        meter=charge.meter,
        tier=charge.tier,
        quantity=quantity,
        included=included,
        exact=exact,
        amount=round_once(exact, rounding=plan.rounding),
        tax_category=charge.tax_category,
    )


def _lines_of_matrix(
    charge: Charge, matrix: MatrixPrice, *, plan: Plan, usage: Sequence[Usage]
) -> list[Line]:
    quantities = [0] * len(matrix.cells)
    for use in usage:
        quantities[matrix.place_of(use.properties())] += use.quantity
    lines, free = [], charge.included
    for cell, quantity in zip(matrix.cells, quantities, strict=True):
        if not quantity:
            continue
        included = min(quantity, free)
        free -= included
        exact = cell.price.cost(quantity - included)
        lines.append(
            Line(
                charge=charge.name,
                meter=charge.meter,
                tier=charge.tier,
                cell=cell.values,
                quantity=quantity,
                included=included,
                exact=exact,
                amount=round_once(exact, rounding=plan.rounding),
                tax_category=charge.tax_category,
            )
        )
    return lines


def _commitment_line(plan: Plan, *, lines: Sequence[Line], part: Fraction, before: Fraction) -> list[Line]:
    sums = [round_once(each, rounding=plan.rounding) for each in (before, before + plan.commitment * part)]
    missing = sums[1] - sums[0] - sum(line.net for line in lines)
    if missing <= 0:
        return []
    return [Line(charge=COMMITMENT, exact=Fraction(missing), amount=missing)]


def charge_of(plan: Plan, use: Usage) -> LineKey | None:
    """Return the key of the line that prices a use; None if it costs nothing."""
    for charge in plan.charges:
        if charge.meter is use.meter and charge.tier in (None, use.tier):
            if not isinstance(charge.price, MatrixPrice):
                return charge.name, ()
            return charge.name, charge.price.cells[charge.price.place_of(use.properties())].values
    return None
