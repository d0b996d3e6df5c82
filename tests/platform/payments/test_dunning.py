"""Dunning by the clock: soft declines on days 1, 3, 5 and 7, hard ones never again, and then the end."""

from __future__ import annotations

import pytest
from tritium_payments_till import open_till

from tritium_platform.billing.dunning import DunningEnd
from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.billing.payment import AttemptState

DAY = 86_400


async def days(till, count):
    """Let days pass, with the rounds of every hour; return the days on which somebody was charged."""
    charged = []
    for hour in range(24 * count):
        run = await till.desk.dunning.run()
        assert (await till.desk.dunning.run()).charged == 0  # doing it again does nothing
        if run.charged:
            charged.append(hour // 24)
        till.clock.advance(seconds=3600)
    return charged


async def test_an_invoice_is_charged_when_it_is_due_and_once(till):
    await till.card("pm_ok")
    invoice = await till.invoice(1000, due_days=2)
    assert await days(till, 5) == [2]
    assert (await till.head(invoice)).status is InvoiceStatus.PAID


async def test_without_a_card_nobody_is_charged(till):
    await till.invoice(1000)
    assert await days(till, 2) == []


@pytest.mark.parametrize("end", DunningEnd)
async def test_a_soft_decline_is_tried_again_and_then_comes_the_end(end):
    with open_till(end) as till:
        await till.card("pm_poor")
        invoice = await till.invoice(1000)
        assert await days(till, 12) == [0, 1, 3, 5, 7]
        head = await till.head(invoice)
        is_lost = end is DunningEnd.UNCOLLECTIBLE
        assert head.status is (InvoiceStatus.UNCOLLECTIBLE if is_lost else InvoiceStatus.FINALIZED)
        assert till.suspended == ([till.tenant_id] if end is DunningEnd.SUSPEND else [])
        actions = [each.action for each in await till.outbox.pending(limit=999)]
        assert actions.count("dunning.end") == 1
        assert (await till.sums()).get("write_off", 0) == (1000 if is_lost else 0)


async def test_a_hard_decline_is_told_once_and_never_tried_again(till):
    await till.card("pm_stolen")
    await till.invoice(1000)
    assert await days(till, 10) == [0]
    actions = [each.action for each in await till.outbox.pending(limit=999)]
    assert (actions.count("dunning.notify"), actions.count("dunning.end")) == (1, 1)


async def test_another_card_is_a_new_beginning(till):
    await till.card("pm_stolen")
    invoice = await till.invoice(1000)
    assert await days(till, 3) == [0]
    await till.card("pm_poor")
    assert await days(till, 4) == [0, 1, 3]
    await till.card("pm_ok")
    assert await days(till, 1) == [0]
    assert (await till.head(invoice)).status is InvoiceStatus.PAID


async def test_what_is_unknown_is_not_charged_again(till):
    await till.card("pm_ok")
    invoice = await till.invoice(1000)
    till.double.faults.extend(["error_after", "cut_before", "cut_before"])
    await till.desk.dunning.run()
    assert await days(till, 2) == []
    await till.janitor()
    (attempt,) = await till.books.payments.of_invoice(invoice.id)
    assert attempt.state is AttemptState.SUCCEEDED


async def test_what_was_given_back_is_not_charged_again_by_itself(till):
    await till.card("pm_ok")
    await till.invoice(1000)
    await till.desk.dunning.run()
    (attempt,) = await till.books.payments.list(tenant_id=None, limit=9)
    await till.desk.refunds.refund(attempt.id, reason="sorry", key=None, actor="test")
    assert await days(till, 3) == []


async def told(till):
    kept = await till.books.payments.notices(tenant_id=till.tenant_id, limit=99)
    return sorted((each.attempt_number, each.kind.value) for each in kept)


@pytest.mark.parametrize("end", DunningEnd)
async def test_a_customer_is_told_of_each_soft_decline_and_of_the_end_once(end):
    with open_till(end) as till:
        await till.card("pm_poor")
        invoice = await till.invoice(1000)
        await days(till, 12)
        assert await told(till) == [(1, "soft"), (2, "soft"), (3, "soft"), (4, "soft"), (5, "end")]
        first, *_, last = await till.books.payments.notices(tenant_id=None, limit=99)
        assert first.subject == f"Payment of invoice {invoice.number} was declined"
        assert "10.00 USD" in first.body
        assert "again on 2 November 2026" in first.body
        assert ("suspended" in last.body) is (end is DunningEnd.SUSPEND)
        assert all("insufficient" not in each.body for each in (first, last))  # the bank's reason is not told
        entries = [each for each in await till.outbox.pending(limit=999) if each.action == "dunning.tell"]
        assert [each.details["kind"] for each in entries] == ["soft"] * 4 + ["end"]


async def test_a_hard_decline_asks_for_another_card_which_is_a_new_beginning(till):
    await till.card("pm_stolen")
    await till.invoice(1000)
    await days(till, 2)
    assert await told(till) == [(1, "hard")]
    (notice,) = await till.books.payments.notices(tenant_id=None, limit=9)
    assert "by 8 November 2026" in notice.body
    assert "stolen" not in notice.body
    await till.card("pm_poor")
    await days(till, 1)
    assert await told(till) == [(1, "hard"), (2, "soft")]
    await till.card("pm_ok")
    await days(till, 9)
    assert await told(till) == [(1, "hard"), (2, "soft")]


async def test_a_decline_that_a_crash_left_untold_is_told_by_the_next_run(till):
    await till.card("pm_poor")
    invoice = await till.invoice(1000)
    # What dunning does before it tells; then its process dies, and is away until the next charge is due.
    await till.desk.service.process_payment(invoice.id, key=None, actor="test")
    assert await told(till) == []
    till.clock.advance(seconds=DAY)
    run = await till.desk.dunning.run()
    assert (run.charged, run.told) == (1, 2)
    assert await told(till) == [(1, "soft"), (2, "soft")]
    assert (await till.desk.dunning.run()).told == 0


async def test_who_pays_is_told_nothing(till):
    await till.card("pm_ok")
    await till.invoice(1000)
    await days(till, 2)
    assert await told(till) == []
