"""The comparison itself: every figure that is off, in either direction, and what may rightly differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from uuid import UUID

import pytest

from tritium_platform.billing.invoice import CreditGrant, FiledLine
from tritium_platform.billing.journal import JournalEntry, entries_of
from tritium_platform.billing.rating.plan import Line
from tritium_platform.billing.reconciliation import documents, sums
from tritium_platform.billing.reconciliation.model import (
    BalanceFacts,
    Check,
    CounterFacts,
    GrantFacts,
    GroupFacts,
    InvoiceFacts,
    MonthKey,
    RequestFacts,
)
from tritium_platform.values import CalendarMonth

TENANT = UUID(int=7)
AT = datetime(2026, 11, 5, tzinfo=UTC)
SEPTEMBER = CalendarMonth(2026, 9)
COUNTER = CounterFacts(
    tenant_id=TENANT,
    meter="requests",
    period="2026-11",
    ceiling=100,
    used=40,
    held=5,
    reserved_used=40,
    reserved_held=5,
)
GRANT = CreditGrant(
    id=UUID(int=1),
    tenant_id=TENANT,
    currency="EUR",
    amount_minor=100,
    remaining_minor=60,
    reason="prepaid",
    created_at=AT,
)


def checks(found):
    return [each.check for each in found]


@pytest.mark.parametrize("off", [-1, 1])
@pytest.mark.parametrize("name", ["used", "held"])
def test_a_counter_that_is_off_by_one_in_either_direction_differs(name, off):
    assert sums.compare_counter(COUNTER) == []
    wrong = replace(COUNTER, **{name: getattr(COUNTER, name) + off})
    (difference,) = sums.compare_counter(wrong)
    assert (difference.check, difference.account, difference.month) == (Check.COUNTER, "requests", "2026-11")
    assert (difference.expected, difference.found) == (
        str(getattr(COUNTER, name)),
        str(getattr(COUNTER, name) + off),
    )


def test_a_counter_at_its_ceiling_or_of_storage_may_say_less_but_never_more():
    full = replace(COUNTER, used=95, reserved_used=97)
    assert sums.compare_counter(full) == []
    assert sums.compare_counter(replace(full, reserved_used=95)) == []
    assert checks(sums.compare_counter(replace(full, reserved_used=94))) == [Check.COUNTER]
    assert checks(sums.compare_counter(replace(full, ceiling=101))) == [Check.COUNTER]
    storage = replace(COUNTER, meter="storage_bytes", used=30)
    assert sums.compare_counter(storage) == []
    assert checks(sums.compare_counter(replace(storage, used=41))) == [Check.COUNTER]


def test_every_request_that_succeeded_used_something():
    facts = RequestFacts(tenant_id=TENANT, succeeded=5, used=5, is_clipped=False)
    assert sums.compare_requests(facts) == []
    assert sums.compare_requests(replace(facts, used=9)) == []
    assert checks(sums.compare_requests(replace(facts, used=4))) == [Check.REQUESTS]
    assert sums.compare_requests(replace(facts, used=4, is_clipped=True)) == []


@pytest.mark.parametrize("left", [59, 61])
def test_what_is_left_of_a_grant_is_what_nobody_drew(left):
    right = GrantFacts(grant=GRANT, drawn=40, refunded=0, movement=None)
    assert sums.compare_grant(right, at=AT) == []
    wrong = replace(right, grant=replace(GRANT, remaining_minor=left))
    assert checks(sums.compare_grant(wrong, at=AT)) == [Check.GRANT]


@pytest.mark.parametrize(("left", "is_wrong"), [(34, True), (35, False), (60, False), (61, True)])
def test_what_refunds_took_may_be_gone_from_a_grant(left, is_wrong):
    facts = GrantFacts(grant=replace(GRANT, remaining_minor=left), drawn=40, refunded=25, movement=None)
    assert bool(sums.compare_grant(facts, at=AT)) is is_wrong


def test_a_grant_that_expired_may_have_less_left_but_never_more():
    gone = replace(GRANT, expires_at=AT, remaining_minor=0)
    assert sums.compare_grant(GrantFacts(grant=gone, drawn=40, refunded=0, movement=None), at=AT) == []
    assert (
        sums.compare_grant(
            GrantFacts(grant=replace(gone, remaining_minor=60), drawn=40, refunded=0, movement=None), at=AT
        )
        == []
    )
    assert sums.compare_grant(
        GrantFacts(grant=replace(gone, remaining_minor=61), drawn=40, refunded=0, movement=None), at=AT
    )
    assert sums.compare_grant(
        GrantFacts(grant=replace(gone, expires_at=AT + timedelta(1)), drawn=40, refunded=0, movement=None),
        at=AT,
    )


@pytest.mark.parametrize("moved", [99, 101])
def test_what_granting_moved_is_the_amount(moved):
    right = entries_of("EUR", cash_clearing=100, customer_credit=-100)
    wrong = entries_of("EUR", cash_clearing=moved, customer_credit=-moved)
    assert sums.compare_grant(GrantFacts(grant=GRANT, drawn=40, refunded=0, movement=right), at=AT) == []
    found = sums.compare_grant(GrantFacts(grant=GRANT, drawn=40, refunded=0, movement=wrong), at=AT)
    assert [(each.check, each.account) for each in found] == [
        (Check.MOVEMENT, "cash_clearing"),
        (Check.MOVEMENT, "customer_credit"),
    ]


@pytest.mark.parametrize("off", [-1, 1])
def test_a_group_balances_in_every_currency_and_is_about_something(off):
    entries = (*entries_of("EUR", receivable=5, revenue=-5), *entries_of("USD", receivable=3, revenue=-3))
    group = GroupFacts(
        id=UUID(int=2), operation_id="x:1", tenant_id=TENANT, entries=entries, has_subject=True
    )
    assert sums.compare_group(group) == []
    more = (*entries, JournalEntry(entries[0].account, off, "USD"))
    (difference,) = sums.compare_group(replace(group, entries=more))
    assert (difference.account, difference.expected, difference.found) == ("USD", "0", str(off))
    assert checks(sums.compare_group(replace(group, entries=()))) == [Check.GROUP]
    assert checks(sums.compare_group(replace(group, has_subject=False))) == [Check.GROUP]


@pytest.mark.parametrize(("journal", "standing"), [({"receivable": 5}, {}), ({}, {"receivable": 5})])
def test_an_account_without_what_it_stands_for_differs_and_the_other_way_round(journal, standing):
    def of(amounts):
        return Counter({(name, "EUR"): amount for name, amount in amounts.items()})

    same = BalanceFacts(tenant_id=TENANT, journal=of(journal), standing=of(journal))
    assert sums.compare_balance(same) == []
    (difference,) = sums.compare_balance(
        BalanceFacts(tenant_id=TENANT, journal=of(journal), standing=of(standing))
    )
    assert (difference.check, difference.account) == (Check.BALANCE, "receivable")


def test_a_charge_that_stands_on_one_side_only_differs():
    key = MonthKey(tenant_id=TENANT, month=SEPTEMBER, is_reopened=False)
    line = Line(charge="seat", cell=(), exact=Fraction(100), amount=100, quantity=1)
    filed = FiledLine(
        number=1,
        period=SEPTEMBER,
        charge="seat",
        cell=(),
        plan_id="plan",
        quantity=1,
        net_minor=100,
        tax_minor=19,
    )
    assert sums.compare_month(key, filed=[filed], rated=[line]) == []
    assert checks(sums.compare_month(key, filed=[filed], rated=[])) == [Check.MONTH]
    assert checks(sums.compare_month(key, filed=[], rated=[line])) == [Check.MONTH]


async def facts_of(shop, invoice):
    """Return what is filed about an invoice, as memory has it."""
    from tritium_platform.adapters.memory.books_reader import MemoryBooksReader  # noqa: PLC0415

    found = await MemoryBooksReader(shop.database).invoices(limit=100, after=None)
    return next(facts for facts in found if facts.invoice.id == invoice.id)


async def test_all_that_life_does_to_invoices_moves_what_it_should(shop, life):
    """Paid, void, written off, credited, a surplus: nothing differs, and every movement is looked for."""
    await life()
    for invoice in await shop.desk.invoices.list(limit=100):
        facts = await facts_of(shop, invoice)
        assert documents.compare_document(facts) == []
        assert documents.compare_movements(facts) == []
        assert documents.compare_settled(facts) == []
        for operation in facts.movements:
            without = {name: each for name, each in facts.movements.items() if name != operation}
            if operation.endswith(str(invoice.id)) or operation.startswith("payment"):
                found = documents.compare_movements(replace(facts, movements=without))
                assert {operation in each.subject for each in found} == {True}
            doubled = {**facts.movements, operation: facts.movements[operation] * 2}
            found = documents.compare_movements(replace(facts, movements=doubled))
            assert not found or {operation in each.subject for each in found} == {True}


async def test_a_document_is_believed_only_with_its_digest_in_its_note(shop, life):
    await life()
    invoice = next(each for each in await shop.desk.invoices.list(limit=100) if each.number == "INV-00000001")
    facts = await facts_of(shop, invoice)
    document = facts.document
    for wrong in (
        replace(document, sha256=bytes(32)),
        replace(document, sha256=b"\xff" * 32),
        replace(document, note=b"another note"),
        replace(document, body=document.body + b" "),
        None,
    ):
        assert checks(documents.compare_document(replace(facts, document=wrong))) == [Check.DOCUMENT]
    for total in (-1, 1):
        changed = replace(facts, invoice=replace(invoice, total_minor=invoice.total_minor + total))
        assert Check.TOTAL in checks(documents.compare_document(changed))


async def test_a_draft_has_no_document_and_needs_none(shop, life):
    await life()
    await shop.use(5)
    (draft,) = await shop.desk.invoices.generate(
        shop.tenant_id, period=CalendarMonth.of(shop.clock.now()), actor="test"
    )
    facts = await facts_of(shop, draft)
    assert documents.compare_invoice(facts, documents.Tally()) == []
    lost = InvoiceFacts(invoice=replace(draft, finalized_at=AT), document=None)
    assert checks(documents.compare_document(lost)) == [Check.DOCUMENT]
