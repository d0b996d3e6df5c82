"""The journal as text for beancount, a program of others that checks whether it balances."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.billing.journal import Account
from tritium_platform.values import Money

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tritium_platform.billing.journal import JournalEntry, JournalGroup

# Five roots are all that beancount has; what a tenant owes or has prepaid is an account of its own.
ROOTS = {
    Account.RECEIVABLE: "Assets:Receivable",
    Account.REVENUE: "Income:Revenue",
    Account.TAX_PAYABLE: "Liabilities:TaxPayable",
    Account.CUSTOMER_CREDIT: "Liabilities:CustomerCredit",
    Account.CASH_CLEARING: "Assets:CashClearing",
    Account.BREAKAGE: "Income:Breakage",
    Account.WRITE_OFF: "Expenses:WriteOff",
    Account.PROCESSOR_FEE: "Expenses:ProcessorFee",
    Account.REFUND_PAYABLE: "Liabilities:RefundPayable",
    Account.DISPUTED: "Assets:Disputed",
}
OF_A_TENANT = frozenset({Account.RECEIVABLE, Account.CUSTOMER_CREDIT})
BEGINNING = "1970-01-01"


def account_name(entry: JournalEntry, *, group: JournalGroup) -> str:
    """Return beancount's name of an entry's account."""
    root = ROOTS[entry.account]
    # A part of a name begins with a capital letter or a digit, and an id may begin with a small one.
    return f"{root}:T-{group.tenant_id}" if entry.account in OF_A_TENANT else root


def write_beancount(groups: Sequence[JournalGroup]) -> Iterator[str]:
    """Yield the lines of a ledger: every account opened, then every group as a transaction, in its order."""
    yield from _openings(groups)
    for group in groups:
        yield ""
        moment = group.occurred_at.strftime("%Y-%m-%d")
        yield f'{moment} * "{_quoted(group.description)}"'
        yield f'  operation: "{_quoted(group.operation_id)}"'
        yield f'  group: "{group.id}"'
        for entry in group.entries:
            yield f"  {account_name(entry, group=group)}  {Money(entry.amount_minor, entry.currency)}"


def _openings(groups: Iterable[JournalGroup]) -> Iterator[str]:
    names = {account_name(entry, group=group) for group in groups for entry in group.entries}
    for name in sorted(names):
        yield f"{BEGINNING} open {name}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
