"""The journal of payments as others read it: bean-check finds nothing wrong."""

from __future__ import annotations

import subprocess

import pytest
from tritium_payments_schedule import Schedule

from tritium_platform.billing.beancount import write_beancount
from tritium_platform.billing.journal import Account

pytestmark = pytest.mark.toolchain
OF_PAYMENTS = {"cash_clearing", "processor_fee", "refund_payable", "disputed", "write_off", "customer_credit"}


async def test_bean_check_accepts_payments_refunds_and_disputes(till, bean_check, tmp_path):
    await till.card("pm_ok")
    lost, won, back = [await till.pay(await till.invoice(1000 + number)) for number in range(3)]
    for attempt, is_won in ((lost, False), (won, True)):
        till.bank.dispute(attempt.reference)
        await till.janitor()
        (dispute,) = await till.desk.disputes.list(attempt.id)
        till.bank.decide(dispute.reference, is_won=is_won)
    note = await till.credit_note(await till.books.locked(back.invoice_id), 200)
    wish = {"reason": "sorry", "key": None, "actor": "test"}
    await till.desk.refunds.refund(back.id, amount_minor=200, credit_note_id=note.id, **wish)
    await till.desk.refunds.refund(back.id, amount_minor=10, **wish)
    await Schedule(till, seed=2026).play(60)
    groups = await till.books.journal.list(limit=100_000)
    named = {entry.account for group in groups for entry in group.entries}
    assert named >= {Account(name) for name in OF_PAYMENTS}
    path = tmp_path / "journal.beancount"
    path.write_text("\n".join([*write_beancount(groups), ""]))
    done = subprocess.run([bean_check, "--no-cache", path], capture_output=True, text=True, check=False)
    assert (done.returncode, (done.stdout + done.stderr).strip()) == (0, "")
