"""The journal as others read it: bean-check finds nothing wrong, and finds what is made wrong."""

from __future__ import annotations

import asyncio
import subprocess
from datetime import UTC, datetime
from uuid import UUID

import pytest

from tritium_platform.billing.beancount import write_beancount
from tritium_platform.billing.journal import JournalGroup, entries_of
from tritium_platform.values import uuid7

AT = datetime(2026, 11, 5, tzinfo=UTC)
pytestmark = pytest.mark.toolchain


def group(number, currency, description="a movement", **amounts):
    return JournalGroup(
        id=uuid7(),
        operation_id=f"test:{number}",
        tenant_id=UUID(int=number % 3 + 0xA << 120),
        description=description,
        occurred_at=AT,
        entries=entries_of(currency, **amounts),
    )


def check(bean_check, text, directory):
    path = directory / "journal.beancount"
    path.write_text(text)
    done = subprocess.run([bean_check, "--no-cache", path], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


JOURNAL = [
    group(number, currency, receivable=119 * number, revenue=-100 * number, tax_payable=-19 * number)
    for number, currency in enumerate(["USD", "JPY", "KWD", "EUR"], start=1)
] + [
    group(5, "USD", 'payment "wire" of C:\\new\nline', cash_clearing=100, receivable=-100),
    group(6, "KWD", customer_credit=1, breakage=-1),
    group(7, "JPY", write_off=3, receivable=-3),
]


def test_bean_check_accepts_the_journal(bean_check, tmp_path):
    code, said = check(bean_check, "\n".join([*write_beancount(JOURNAL), ""]), tmp_path)
    assert (code, said.strip()) == (0, "")


@pytest.mark.parametrize("place", range(len(JOURNAL)))
def test_bean_check_finds_one_minor_unit_too_much(bean_check, tmp_path, place):
    lines = list(write_beancount([JOURNAL[place]]))
    amount = lines[-1].split()[-2]
    digits = len(amount.partition(".")[2])
    wrong = int(amount.replace(".", "")) + 1
    sign, magnitude = ("-" if wrong < 0 else ""), str(abs(wrong)).rjust(digits + 1, "0")
    changed = f"{sign}{magnitude[:-digits]}.{magnitude[-digits:]}" if digits else str(wrong)
    lines[-1] = lines[-1].replace(f" {amount} ", f" {changed} ")
    code, said = check(bean_check, "\n".join([*lines, ""]), tmp_path)
    assert code == 1
    assert "does not balance" in said


def test_an_empty_journal_is_a_ledger_too(bean_check, tmp_path):
    assert check(bean_check, "\n".join(write_beancount([])), tmp_path)[0] == 0


def test_the_journal_of_a_whole_life_balances(bean_check, tmp_path, life):
    groups = asyncio.run(life())
    assert {each.operation_id.partition(":")[0] for each in groups} >= {
        "finalize",
        "payment",
        "credit",
        "void",
        "grant",
        "write_off",
    }
    code, said = check(bean_check, "\n".join([*write_beancount(groups), ""]), tmp_path)
    assert (code, said.strip()) == (0, "")
