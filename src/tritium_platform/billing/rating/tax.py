"""Taxes by a table of rates, on each line or on the whole invoice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING

from tritium_platform.billing.rating.rounding import round_once, share_out
from tritium_platform.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tritium_platform.billing.rating.rounding import Rounding

STANDARD = "standard"
NO_JURISDICTION = ""


EXEMPT = "exempt"


class TaxCode(StrEnum):
    """Why a tax is what it is: the codes of UNTDID 5305 that EN 16931 has for it."""

    STANDARD = "S"
    ZERO = "Z"
    EXEMPT = "E"
    REVERSE_CHARGE = "AE"
    NOT_TAXED = "O"


class TaxBasis(StrEnum):
    """What is rounded: the tax of each line, or the tax of all lines of one rate together."""

    PER_LINE = "per_line"
    PER_INVOICE = "per_invoice"


@dataclass(frozen=True, slots=True)
class TaxRate:
    """The rate of a category of goods in a jurisdiction from an instant on."""

    jurisdiction: str
    category: str
    valid_from: datetime
    rate: Fraction

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValidationError("A tax rate lies between 0 and 1.", field="rate")
        if not self.jurisdiction or self.valid_from.tzinfo is None:
            raise ValidationError("A tax rate names its jurisdiction and an instant with a time zone.")


@dataclass(frozen=True, slots=True)
class TaxStatus:
    """Where a customer is taxed.

    Attributes:
        jurisdiction: such as `DE`; empty where no tax is due.
        is_reverse_charge: the customer owes the tax itself (EU, between businesses): none is charged.
        tax_id: the customer's number, which the reverse charge needs.
    """

    jurisdiction: str = NO_JURISDICTION
    is_reverse_charge: bool = False
    tax_id: str = ""

    def __post_init__(self) -> None:
        if self.is_reverse_charge and not (self.tax_id and self.jurisdiction):
            raise ValidationError("The reverse charge needs the customer's tax id and jurisdiction.")


def rate_of(table: Sequence[TaxRate], *, status: TaxStatus, category: str, at: datetime) -> Fraction:
    """Return the rate for a customer at an instant.

    Raises:
        ValidationError: the table says nothing about the jurisdiction and category: no tax is ever guessed.
    """
    if _is_free(status):
        return Fraction(0)
    found = _valid(table, status=status, category=category, at=at)
    if not found:
        raise ValidationError(
            f"The plan has no tax rate for '{category}' in {status.jurisdiction} at {at.isoformat()}.",
            field="taxes",
        )
    return max(found, key=lambda each: each.valid_from).rate


def knows_rate(table: Sequence[TaxRate], *, status: TaxStatus, category: str, at: datetime) -> bool:
    """Return whether a table has a rate for a customer at an instant, or none is due."""
    return _is_free(status) or bool(_valid(table, status=status, category=category, at=at))


def _is_free(status: TaxStatus) -> bool:
    return status.is_reverse_charge or status.jurisdiction == NO_JURISDICTION


def _valid(table: Sequence[TaxRate], *, status: TaxStatus, category: str, at: datetime) -> list[TaxRate]:
    wanted = (status.jurisdiction, category)
    return [each for each in table if (each.jurisdiction, each.category) == wanted and each.valid_from <= at]


def code_of(rate: Fraction, *, status: TaxStatus, category: str) -> TaxCode:
    """Return why a customer pays a rate; a rate of nothing is exempt in the category of that name only."""
    if status.is_reverse_charge:
        return TaxCode.REVERSE_CHARGE
    if status.jurisdiction == NO_JURISDICTION:
        return TaxCode.NOT_TAXED
    if rate:
        return TaxCode.STANDARD
    return TaxCode.EXEMPT if category == EXEMPT else TaxCode.ZERO


def tax_lines(
    amounts: Sequence[int], *, rates: Sequence[Fraction], basis: TaxBasis, rounding: Rounding
) -> list[int]:
    """Return the tax of each line in minor units.

    Per invoice, each rate is applied once to the sum of its lines, rounded once, and shared out among them.
    """
    if basis is TaxBasis.PER_LINE:
        return [
            round_once(rate * amount, rounding=rounding) for amount, rate in zip(amounts, rates, strict=True)
        ]
    taxes = [0] * len(amounts)
    for rate in dict.fromkeys(rates):
        places = [place for place, each in enumerate(rates) if each == rate]
        parts = [rate * amounts[place] for place in places]
        total = round_once(sum(parts, Fraction(0)), rounding=rounding)
        for place, share in zip(places, share_out(total, parts=parts), strict=True):
            taxes[place] = share
    return taxes
