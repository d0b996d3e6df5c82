"""Hands in the database, and charges at the provider that nobody here made: each is named, and an alarm."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.sql.billing_store import SqlPriceStore
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.money import open_sql_desk
from tritium_platform.adapters.sql.plan_store import SqlPlanStore
from tritium_platform.adapters.sql.tenancy_store import SqlTenantStore
from tritium_platform.audit.note import NoteSigner
from tritium_platform.billing.dunning import DunningEnd
from tritium_platform.billing.invoicing import BillingService
from tritium_platform.billing.list_plan import plan_of
from tritium_platform.billing.pricing import default_price_version
from tritium_platform.billing.rating.plan_json import plan_id
from tritium_platform.billing.reconciliation.model import Check
from tritium_platform.compose.reconciliation import open_reconciliation
from tritium_platform.security.model import ThreatLevel

# Their double and their till are loaded by the tests of payments.
PAYMENTS = Path(__file__).resolve().parent.parent / "platform" / "payments" / "conftest.py"
spec = importlib.util.spec_from_file_location("tritium_payments_tests", PAYMENTS)
spec.loader.exec_module(importlib.util.module_from_spec(spec))

from tritium_payments_double import Double, served  # noqa: E402 - loaded above
from tritium_payments_till import START, Till, stripe_at  # noqa: E402

DAY = 86_400
ONE_BY_ONE = {
    Check.MISSING_HERE,
    Check.MISSING_THERE,
    Check.PAYMENT_AMOUNT,
    Check.PAYMENT_CURRENCY,
    Check.PAYMENT_STATE,
    Check.MOVEMENT,
}


class Alarms:
    """Takes what would be security's."""

    def __init__(self) -> None:
        self.events = []

    async def record(self, event):
        self.events.append(event)


class House:
    """A till over a database with the reconciliation of the platform."""

    def __init__(self, till, reconciliation, alarms):
        self.till, self.reconciliation, self.alarms = till, reconciliation, alarms

    async def differences(self):
        """Let a day pass and reconcile everything; return what differs about payments one by one."""
        self.till.clock.advance(seconds=DAY)
        run = await self.reconciliation.run()
        return [
            (each.check.value, each.subject.split()[0], each.expected, each.found)
            for each in run.differences
            if each.check in ONE_BY_ONE and each.subject.startswith(("payment", "refund", "dispute"))
        ]


@pytest.fixture
async def house(sql_url):
    clock = ManualClock(START)
    database, double, alarms = Database(sql_url), Double(clock), Alarms()
    with served(double) as address:
        till = Till(double, url=address, clock=clock, end=DunningEnd.NOTHING)
        desk = open_sql_desk(
            database,
            prices=BillingService(prices=SqlPriceStore(database), clock=clock),
            tenants=SqlTenantStore(database),
            signer=NoteSigner("test", private_key=Ed25519PrivateKey.generate()),
            clock=clock,
            grace_days=None,
            providers=[stripe_at(address, clock=clock)],
        )
        plan = plan_of(default_price_version())
        await SqlPlanStore(database).add_plan(plan, at=START)
        till.books, till.desk, till.plan_id = desk.books, desk.payments, plan_id(plan)
        await till.card("pm_ok")
        first = await till.pay(await till.invoice(1000))
        await till.pay(await till.invoice(2000))
        await till.desk.refunds.refund(first.id, amount_minor=300, reason="sorry", key=None, actor="test")
        yield House(till, open_reconciliation(database, desk=desk, security=alarms), alarms)
    await database.close()


async def test_what_nobody_touched_is_quiet(house):
    assert await house.differences() == []


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (
            "UPDATE payment_attempts SET received_minor = 1999 WHERE amount_minor = 2000",
            [
                ("payment_amount", "payment", "2000", "1999"),
                ("movement", "payment", "1940", "1941"),
            ],
        ),
        (
            "UPDATE payment_attempts SET currency = 'EUR' WHERE amount_minor = 2000",
            [("payment_currency", "payment", "USD", "EUR")],
        ),
        (
            "DELETE FROM payment_attempts WHERE amount_minor = 2000",
            [("missing_here", "payment", "2000 USD, succeeded", "nothing")],
        ),
        (
            "UPDATE payment_refunds SET state = 'failed'",
            [("payment_state", "refund", "succeeded", "failed"), ("movement", "refund", "0", "-300")],
        ),
        (
            "DELETE FROM payment_refunds",
            [("missing_here", "refund", "300 USD, succeeded", "nothing")],
        ),
        (
            (
                "UPDATE journal_entries SET amount_minor = -301 "
                "WHERE amount_minor = -300 AND account = 'cash_clearing'"
            ),
            [("movement", "refund", "-300", "-301")],
        ),
    ],
)
async def test_a_hand_in_the_database_is_named(house, sabotage, statement, named):
    sabotage(statement)
    assert await house.differences() == named
    critical = [each for each in house.alarms.events if each.severity is ThreatLevel.CRITICAL]
    assert f"books_differ:{named[0][0]}" in {each.reason for each in critical}


async def test_a_charge_that_we_have_and_the_provider_has_not_is_named_and_the_reverse(house):
    bank = house.till.bank
    stranger = {"amount": "77", "currency": "usd", "customer": "cus_9", "payment_method": "pm_ok"}
    bank.charge(stranger)
    lost = next(name for name, each in bank.intents.items() if each["amount"] == 2000)
    del bank.intents[lost]
    assert await house.differences() == [
        ("missing_here", "payment", "77 USD, succeeded", "nothing"),
        ("missing_there", "payment", "nothing", "2000 USD, succeeded"),
    ]
    assert {each.reason for each in house.alarms.events} >= {
        "books_differ:missing_here",
        "books_differ:missing_there",
    }
