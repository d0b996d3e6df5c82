"""What a new plan or contract may not say, or change of what others said: pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.billing.rating.plan_json import plan_to_dict
from tritium_platform.billing.rating.tax import STANDARD, knows_rate, rate_of
from tritium_platform.errors import ConflictError, ValidationError
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from tritium_platform.billing.contract import Contract
    from tritium_platform.billing.rating.plan import Plan
    from tritium_platform.billing.rating.tax import TaxStatus


def require_open_month(
    contract: Contract, *, billed: CalendarMonth | None, drafted: Iterable[CalendarMonth]
) -> None:
    """Refuse to change what an invoice says; ConflictError.

    Args:
        contract: the new one.
        billed: the latest month that is billed.
        drafted: the months of drafts.
    """
    month = CalendarMonth.of(contract.starts_at)
    if billed is not None and month <= billed:
        raise ConflictError(
            f"{billed} is billed already: a contract starts in a later month.", field="starts_at"
        )
    if any(period >= month for period in drafted):
        raise ConflictError(
            "There is a draft of that month already: void it before the contract changes what it says.",
            field="starts_at",
        )


def require_last(contract: Contract, *, others: Iterable[Contract]) -> None:
    """Refuse a contract before others of its tenant; ConflictError."""
    if any(other.starts_at > contract.starts_at for other in others):
        raise ConflictError("A contract that starts later exists already.", field="starts_at")


def require_one_invoice(contract: Contract, earlier: Contract, *, currencies: tuple[str, str]) -> None:
    """Refuse what one invoice about a month of both contracts could not say; ConflictError."""
    mine, theirs = currencies
    if contract.starts_at == CalendarMonth.of(contract.starts_at).start:
        return
    if mine != theirs:
        reason = f"The currency changes from {theirs} to {mine}"
    elif contract.tax != earlier.tax:
        reason = "The customer is taxed otherwise than before"
    else:
        return
    raise ConflictError(f"{reason}: such a contract starts with a calendar month (UTC).", field="starts_at")


def require_rates(plan: Plan, pinned: Plan, *, tax: TaxStatus, at: datetime) -> None:
    """Find out now, not at the end of a month, that neither plan knows the tax on what the first charges."""
    for category in sorted({STANDARD, *(charge.tax_category for charge in plan.charges)}):
        if not knows_rate(plan.taxes, status=tax, category=category, at=at):
            rate_of(pinned.taxes, status=tax, category=category, at=at)


def require_publishable(plan: Plan) -> None:
    """Refuse what a new plan may not say; those of before are read as they are. ValidationError."""
    require_printable(plan_to_dict(plan), field="plan")
    rates = {(each.jurisdiction, each.category, each.valid_from) for each in plan.taxes}
    if len(rates) < len(plan.taxes):
        raise ValidationError("Two tax rates of a plan are for the same thing.", field="taxes")


def require_printable(plain: object, *, field: str) -> None:
    """Refuse a text that no database keeps or no page prints, at any depth; ValidationError."""
    if isinstance(plain, str) and not plain.isprintable():
        raise ValidationError(f"Every text of the {field} can be printed on one line.", field=field)
    if isinstance(plain, dict | list):
        for each in plain.values() if isinstance(plain, dict) else plain:
            require_printable(each, field=field)
