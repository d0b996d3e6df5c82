"""Compares uses, counters, months, accounts, grants and payments: pure functions."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tritium_platform.billing.journal import Account
from tritium_platform.billing.reconciliation.model import Check, Difference
from tritium_platform.metering.event import digests_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from tritium_platform.billing.invoice import FiledLine, Payment
    from tritium_platform.billing.rating.plan import Line, LineKey
    from tritium_platform.billing.reconciliation.model import (
        BalanceFacts,
        CounterFacts,
        GrantFacts,
        GroupFacts,
        KeptUse,
        MonthKey,
        RequestFacts,
    )
    from tritium_platform.values import Interval

REQUESTS = "requests"


def compare_use(use: KeptUse) -> list[Difference]:
    """Compare a use with the digest that was kept when it was recorded.

    That of an event is worked out again, too: a report carries the digest that is in its row.
    """
    record = use.record
    digests = frozenset({record.body_sha256()}) if record.report is None else digests_of(record)
    if use.body_sha256 in digests:
        return []
    return [
        Difference(
            check=Check.EVENT,
            tenant_id=record.tenant_id,
            month=record.occurred_at.strftime("%Y-%m"),
            subject=f"use {record.id} (source {record.source}, event {record.event_id})",
            expected=use.body_sha256.hex(),
            found=min(digests).hex() if digests else "nothing that an event can say",
            look=f"GET /api/v1/audit of the tenant: the entry with id {record.id} has the quantities",
        )
    ]


def compare_counter(facts: CounterFacts) -> list[Difference]:
    """Compare a counter with its reservations.

    What expired and was used afterwards counts as far as it fitted: at its ceiling a counter may say less.
    Storage that was freed is taken off the counter, not off the reservations.
    """
    found = []
    if facts.held != facts.reserved_held:
        found.append(_counter(facts, "held", expected=facts.reserved_held, found=facts.held))
    is_clipped = facts.used + facts.held >= facts.ceiling or facts.meter != REQUESTS
    is_wrong = facts.used > facts.reserved_used if is_clipped else facts.used != facts.reserved_used
    if is_wrong:
        found.append(_counter(facts, "used", expected=facts.reserved_used, found=facts.used))
    return found


def _counter(facts: CounterFacts, name: str, *, expected: int, found: int) -> Difference:
    return Difference(
        check=Check.COUNTER,
        tenant_id=facts.tenant_id,
        month=facts.period,
        account=facts.meter,
        subject=f"quota counter {facts.meter} {facts.period}: {name}",
        expected=str(expected),
        found=str(found),
        look="the tables quota_counters and reservations of this tenant, meter and period",
    )


def compare_requests(facts: RequestFacts) -> list[Difference]:
    """See that every request that succeeded used something of the quota; over all months together."""
    if facts.is_clipped or facts.succeeded <= facts.used:
        return []
    return [
        Difference(
            check=Check.REQUESTS,
            tenant_id=facts.tenant_id,
            account=REQUESTS,
            subject="requests of all months",
            expected=f"at least {facts.succeeded}",
            found=str(facts.used),
            look="GET /api/v1/usage of the tenant; the table quota_counters",
        )
    ]


def compare_month(
    key: MonthKey, *, filed: Sequence[FiledLine], rated: Sequence[Line], interval: Interval | None = None
) -> list[Difference]:
    """Compare what invoices charged for a month with what its billed uses come to by the plan, key by key.

    Of a month that is cut that is done part by part: `interval` is the part.
    """
    charged: Counter[LineKey] = Counter()
    quantities: Counter[LineKey] = Counter()
    for each in filed:
        charged[each.key] += each.net_minor
        quantities[each.key] += each.quantity
    now = {line.key: line for line in rated}
    found = []
    for charge in sorted(charged.keys() | now.keys()):
        line = now.get(charge)
        expected = (line.quantity, line.net) if line else (0, 0)
        if expected != (quantities[charge], charged[charge]):
            found.append(
                Difference(
                    check=Check.MONTH,
                    tenant_id=key.tenant_id,
                    month=str(key.month),
                    account=line.meter.value if line and line.meter else "",
                    subject=" ".join([charge[0], *charge[1], *([str(interval)] if interval else [])]),
                    expected=f"{expected[1]} for {expected[0]}",
                    found=f"{charged[charge]} for {quantities[charge]}",
                    look=f"tritiumd invoice preview {key.tenant_id} --period {key.month}; the uses of lines: "
                    "GET /api/v1/invoices/ID/lines/NUMBER/events",
                )
            )
    return found


def compare_grant(facts: GrantFacts, *, at: datetime) -> list[Difference]:
    """Compare what is left of a grant with what was drawn, and what granting it moved with its amount.

    What refunds took from two grants of one reason is not told apart; the balance of the tenant is.
    """
    grant = facts.grant
    left = grant.amount_minor - facts.drawn
    can_be_gone = grant.expires_at is not None and grant.expires_at <= at
    least = 0 if can_be_gone else left - facts.refunded
    is_wrong = not least <= grant.remaining_minor <= left
    found = []
    if is_wrong:
        found.append((Check.GRANT, "", left, grant.remaining_minor))
    if facts.movement is not None:
        moved: Counter[str] = Counter()
        for entry in facts.movement:
            moved[entry.account.value] += entry.amount_minor
        for account, amount in (
            (Account.CASH_CLEARING, grant.amount_minor),
            (Account.CUSTOMER_CREDIT, -grant.amount_minor),
        ):
            if moved[account] != amount:
                found.append((Check.MOVEMENT, account.value, amount, moved[account]))
    return [
        Difference(
            check=check,
            tenant_id=grant.tenant_id,
            account=account,
            subject=f"credit grant {grant.id}",
            expected=str(expected),
            found=str(stands),
            look=f"GET /api/v1/billing/credits?tenant_id={grant.tenant_id}; GET /api/v1/billing/journal",
        )
        for check, account, expected, stands in found
    ]


def compare_group(facts: GroupFacts) -> list[Difference]:
    """See that a group of the journal balances in every currency and is about something that exists."""
    sums: Counter[str] = Counter()
    for entry in facts.entries:
        sums[entry.currency] += entry.amount_minor
    wrong = [(currency, "0", str(amount)) for currency, amount in sorted(sums.items()) if amount]
    if not facts.entries:
        wrong.append(("", "two entries or more", "none"))
    if not facts.has_subject:
        wrong.append(("", "something that it is about", "nothing"))
    return [
        Difference(
            check=Check.GROUP,
            tenant_id=facts.tenant_id,
            account=currency,
            subject=f"journal group {facts.operation_id}",
            expected=expected,
            found=found,
            look=f"GET /api/v1/billing/journal: the group {facts.id}",
        )
        for currency, expected, found in wrong
    ]


def compare_balance(facts: BalanceFacts) -> list[Difference]:
    """Compare a tenant's accounts with what they stand for: open invoices, and credit that is left."""
    return [
        Difference(
            check=Check.BALANCE,
            tenant_id=facts.tenant_id,
            account=account,
            subject=f"account {account} in {currency}",
            expected=str(facts.standing[account, currency]),
            found=str(facts.journal[account, currency]),
            look="tritiumd journal export; GET /api/v1/billing/invoices?tenant_id=...",
        )
        for account, currency in sorted(facts.journal.keys() | facts.standing.keys())
        if facts.journal[account, currency] != facts.standing[account, currency]
    ]


def compare_provider(payments: Sequence[Payment], *, taken: Mapping[UUID, int]) -> list[Difference]:
    """Compare payments with what their provider says it took for each."""
    return [
        Difference(
            check=Check.PROVIDER,
            tenant_id=payment.tenant_id,
            account=Account.CASH_CLEARING.value,
            subject=f"payment {payment.id} ({payment.reference})",
            expected=str(taken.get(payment.id, "unknown to the provider")),
            found=str(payment.amount_minor),
            look=f"tritiumd invoice show {payment.invoice_id}; the provider's own list of payments",
        )
        for payment in payments
        if taken.get(payment.id) != payment.amount_minor
    ]
