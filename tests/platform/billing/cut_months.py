"""Months that plan changes, ends and gaps cut, as chance has them: as they are billed, and by the oracle."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import tritium_billing_oracle as oracle
import tritium_billing_plans as drawn

from tritium_platform.billing.contract import Contract, contracts_of
from tritium_platform.billing.drafting import PartFacts, draft_lines
from tritium_platform.billing.list_plan import plan_of
from tritium_platform.billing.model import MeterPrice, PriceVersion
from tritium_platform.billing.rating.plan import Usage
from tritium_platform.billing.rating.plan_json import plan_from_dict, plan_id, plan_to_dict
from tritium_platform.billing.rating.rate import add_taxes
from tritium_platform.billing.rating.tax import TaxStatus, rate_of
from tritium_platform.billing.terms import cut_month
from tritium_platform.metering.model import Meter
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth

AT = drawn.AT
MONTH = CalendarMonth.of(AT)
DAY, TICK = timedelta(days=1), timedelta(microseconds=1)
LENGTH = MONTH.end - MONTH.start
CUSTOMER = UUID(int=1)


class Customer:
    """Somebody who changes between plans of one currency and one tax table, with a price list or without.

    Plans and contracts are the documents that the oracle reads.
    """

    def __init__(self, plans, chance):
        first = plans[0]
        shared = {"currency": first["currency"], "taxes": first["taxes"]}
        self.chance = chance
        self.plans = [{**plan, **shared} for plan in plans]
        read = [plan_from_dict(plan) for plan in self.plans]
        self.ids = [plan_id(plan) for plan in read]
        self.read = dict(zip(self.ids, read, strict=True))
        self.list = random_list(chance, first["currency"])

    def month(self, status):
        """Return a month's lines as they are billed, and as the oracle counts them."""
        history = random_history(self.chance, self.plans)
        listed = self.list if self.chance.random() < 0.6 else None
        uses = [
            random_use(self.chance) | {"at": random_instant(self.chance, history)}
            for _ in range(self.chance.randint(0, 8))
        ]
        return self.billed(history, listed, uses, status), counted(history, listed, uses, status)

    def billed(self, history, listed, uses, status):
        terms = self.parts(history, listed)
        facts = [
            PartFacts(
                terms=each,
                usage=usage_of(
                    [use for use in uses if each.interval is None or each.interval.holds(use["at"])]
                ),
            )
            for each in terms
        ]
        drafted = draft_lines(MONTH, months={MONTH: facts})
        plan, tax = self.read[self.id_of(history[-1])], status_of(status)
        lines = add_taxes(
            [each.line for each in drafted],
            plan=plan,
            status=tax,
            rates=[
                rate_of(plan.taxes, status=tax, category=each.line.tax_category, at=AT) for each in drafted
            ],
        )
        return [
            ((each.interval.start, each.interval.end) if each.interval else (MONTH.start, MONTH.end))
            + numbers_of(line)
            for each, line in zip(drafted, lines, strict=True)
        ]

    def parts(self, history, listed):
        """Return the parts of the month as a service of plans finds them."""
        contracts = [
            Contract(
                id=UUID(int=number),
                tenant_id=CUSTOMER,
                plan_id=self.id_of(each),
                starts_at=each["starts_at"],
                ends_at=each["ends_at"],
                created_at=AT,
            )
            for number, each in enumerate(history)
        ]
        held = contracts_of(contracts, month=MONTH)
        parts = []
        for piece in cut_month(MONTH, held=held, is_listed=listed is not None):
            identity = piece.contract.plan_id if piece.contract else "the list's"
            plan = self.read[identity] if piece.contract else plan_of(listed)
            parts.append(piece.priced_by(plan, identity, month=MONTH))
        return parts

    def id_of(self, contract):
        return self.ids[self.plans.index(contract["plan"])]


def counted(history, listed, uses, status):
    """Return what the oracle says: the invoice's taxes are rounded as the last contract's plan says."""
    plain = None if listed is None else plan_to_dict(plan_of(listed))
    parts = oracle.bill_month(history, plain, uses, MONTH.start, MONTH.end)
    lines = [(since, until, line) for since, until, _, found in parts for line in found]
    taxes = oracle.taxes_of(history[-1]["plan"], [line for *_, line in lines], status, AT.isoformat())
    return [(since, until, *line[:7], tax) for (since, until, line), tax in zip(lines, taxes, strict=True)]


def random_history(chance, plans):
    """One contract to three start within the month, and often one before it; some have an end."""
    starts = {random_instant(chance) for _ in range(chance.randint(1, 3))}
    if chance.random() < 0.7:
        starts.add(MONTH.start - chance.randint(0, 40) * DAY)
    return [
        {
            "plan": chance.choice(plans),
            "starts_at": start,
            "ends_at": start + chance.randint(1, 20 * DAY // TICK) * TICK if chance.random() < 0.3 else None,
        }
        for start in sorted(starts)
    ]


def random_instant(chance, history=()):
    """Return an instant of the month: where contracts begin or end, or just before that, midnight, or any."""
    marks = [each[name] for each in history for name in ("starts_at", "ends_at") if each[name]]
    marks = [mark for each in marks for mark in (each - TICK, each) if MONTH.start <= mark < MONTH.end]
    if marks and chance.random() < 0.3:
        return chance.choice(marks)
    if chance.random() < 0.4:
        return MONTH.start + chance.randrange(LENGTH // DAY) * DAY
    return MONTH.start + chance.randrange(LENGTH // TICK) * TICK


def random_list(chance, currency):
    prices = {
        TenantTier(tier): {
            Meter(meter): MeterPrice(chance.choice(drawn.EIGHTHS), chance.randint(0, 9))
            for meter in drawn.METERS
        }
        for tier in drawn.TIERS
    }
    return PriceVersion(currency, AT, prices)


def random_use(chance):
    return {
        "meter": chance.choice([*drawn.METERS, "compute_ms"]),
        "tier": chance.choice(drawn.TIERS),
        "model": chance.choice(drawn.MODELS),
        "device": chance.choice(drawn.DEVICES),
        "quantity": chance.randint(0, 12),
    }


def usage_of(uses):
    return [
        Usage(
            meter=Meter(use["meter"]),
            tier=TenantTier(use["tier"]),
            quantity=use["quantity"],
            model=use["model"],
            device=use["device"],
        )
        for use in uses
    ]


def status_of(status):
    jurisdiction, is_reversed = status
    return TaxStatus(jurisdiction, is_reversed, "DE123" if is_reversed else "")


def numbers_of(line):
    """Return what the oracle says of a line, too."""
    return (
        line.charge,
        line.cell,
        line.quantity,
        line.included,
        line.exact,
        line.amount,
        line.discount,
        line.tax,
    )
