"""The journal of double entry: what each event of an invoice's life moves, in groups that sum to zero.

Amounts are minor units; what is above zero is a debit, what is below a credit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tritium_platform.errors import ValidationError
from tritium_platform.values import CURRENCY_DIGITS

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


class Account(StrEnum):
    """Where money is, or what it is for."""

    RECEIVABLE = "receivable"
    REVENUE = "revenue"
    TAX_PAYABLE = "tax_payable"
    CUSTOMER_CREDIT = "customer_credit"
    CASH_CLEARING = "cash_clearing"
    BREAKAGE = "breakage"
    WRITE_OFF = "write_off"
    PROCESSOR_FEE = "processor_fee"
    REFUND_PAYABLE = "refund_payable"
    DISPUTED = "disputed"


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One side of a movement."""

    account: Account
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalGroup:
    """What moved at one time because of one operation, whose id is unique for ever.

    Raises:
        ValidationError: it does not sum to zero in every currency, or says nothing.
    """

    id: UUID
    operation_id: str
    tenant_id: UUID
    description: str
    occurred_at: datetime
    entries: tuple[JournalEntry, ...]

    def __post_init__(self) -> None:
        sums: Counter[str] = Counter()
        for entry in self.entries:
            if type(entry.amount_minor) is not int or entry.currency not in CURRENCY_DIGITS:
                raise ValidationError("A journal entry is a whole number of minor units of a known currency.")
            sums[entry.currency] += entry.amount_minor
        if any(sums.values()):
            raise ValidationError("The entries of a journal group sum to zero in every currency.")
        if len(self.entries) < 2 or not all(entry.amount_minor for entry in self.entries):  # noqa: PLR2004 - double entry
            raise ValidationError("A journal group moves something from somewhere to somewhere else.")


def entries_of(currency: str, **amounts: int) -> tuple[JournalEntry, ...]:
    """Return the entries of a movement by the names of accounts, without those that move nothing."""
    return tuple(JournalEntry(Account(name), amount, currency) for name, amount in amounts.items() if amount)
