"""The pricing engine against the oracle that counts unit by unit, and what must not matter to it.

`make soak-pricing` runs TRITIUM_PRICING_PLANS (20,000) plans with 50 months of use each: a million cases. Of
five months one is cut by changes between that plan and another one.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from datetime import timedelta
from fractions import Fraction
from uuid import UUID

import pytest
import tritium_billing_oracle as oracle
import tritium_billing_plans as drawn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tritium_billing_cut_months import Customer, numbers_of, random_use, status_of, usage_of

from tritium_platform.billing.rating.credits import Credit, draw_credits
from tritium_platform.billing.rating.plan_json import (
    canonical_plan,
    plan_from_dict,
    plan_id,
    plan_to_dict,
)
from tritium_platform.billing.rating.rate import add_taxes, rate
from tritium_platform.billing.rating.tax import rate_of

PLANS = int(os.environ.get("TRITIUM_PRICING_PLANS", "20000"))
MONTHS_PER_PLAN = 50
CUT = 0.2  # of the months
STATUSES = [("", False), ("DE", False), ("FR", False), ("DE", True)]
AT = drawn.AT


def billed(plan, uses, part, status):
    rated, tax = rate(plan, usage=usage_of(uses), part=Fraction(part)), status_of(status)
    rates = [rate_of(plan.taxes, status=tax, category=line.tax_category, at=AT) for line in rated]
    lines = add_taxes(rated, plan=plan, status=tax, rates=rates)
    return [numbers_of(line) for line in lines]


def require_sums(lines, plan):
    """The parts of an invoice sum to the whole, and nothing of it is below zero."""
    for *_, amount, discount, tax in lines:
        assert amount >= discount >= 0
        assert tax >= 0
    if plan["commitment"] and lines:
        assert all(type(line[5]) is int for line in lines)


@given(drawn.plans(), drawn.uses, drawn.parts, drawn.statuses)
@settings(max_examples=400)
def test_a_month_costs_what_counting_unit_by_unit_says(plan, uses, part, status):
    found = billed(plan_from_dict(plan), uses, part, status)
    assert found == oracle.bill(plan, uses, Fraction(part), status, AT.isoformat())
    require_sums(found, plan)


@given(drawn.scalars, drawn.currency)
def test_every_quantity_up_to_beyond_the_last_step_costs_what_its_units_cost(price, currency):
    charge = drawn.made_fee("one", price, is_prorated=False) | {"meter": "output_tokens"}
    read = plan_from_dict({"name": "p", "currency": currency, "charges": [charge]})
    for quantity in range(17):
        assert read.charges[0].price.cost(quantity) == sum(oracle.unit_costs(price, quantity))


@given(drawn.plans(), drawn.uses, drawn.parts, drawn.statuses, st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_neither_order_nor_splitting_of_uses_matters(plan, uses, part, status, chance):
    read = plan_from_dict(plan)
    pieces = []
    for use in uses:
        cut = chance.randint(0, use["quantity"])
        pieces += [use | {"quantity": cut}, use | {"quantity": use["quantity"] - cut}]
    chance.shuffle(pieces)
    assert billed(read, pieces, part, status) == billed(read, uses, part, status)


@given(drawn.plans())
def test_a_plan_says_the_same_after_it_was_written_and_read(plan):
    read = plan_from_dict(plan)
    again = plan_from_dict(plan_to_dict(read))
    assert again == read
    assert canonical_plan(again) == canonical_plan(read)
    assert plan_id(again) == plan_id(read)


@given(drawn.plans(), drawn.uses, drawn.statuses, st.integers(1, 10))
@settings(max_examples=100)
def test_more_use_never_costs_less_where_no_price_falls_with_volume(plan, uses, status, more):
    simple = [each for each in plan["charges"] if each["price"]["kind"] not in ("volume", "matrix")]
    plan = plan | {"charges": simple, "discounts": []}
    read = plan_from_dict(plan)
    larger = [use | {"quantity": use["quantity"] + more} for use in uses]
    before, after = (sum(line[5] for line in billed(read, each, "1", status)) for each in (uses, larger))
    assert after >= before


grants = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.integers(1, 50),
            "remaining": st.integers(0, 30),
            "priority": st.integers(0, 2),
            "days": st.one_of(st.none(), st.integers(-2, 4)),
        }
    ),
    max_size=6,
    unique_by=lambda each: each["id"],
)


@given(st.integers(0, 90), grants)
def test_credit_is_used_up_cent_by_cent_in_its_order(due, drawn_grants):
    plain = [
        {**each, "expires_at": None if each["days"] is None else AT + timedelta(days=each["days"])}
        for each in drawn_grants
    ]
    made = [
        Credit(
            id=UUID(int=each["id"]),
            remaining=each["remaining"],
            priority=each["priority"],
            expires_at=each["expires_at"],
        )
        for each in plain
    ]
    paid = draw_credits(due, grants=made, at=AT)
    assert {grant.int: amount for grant, amount in paid} == oracle.draw(due, plain, AT)
    assert sum(amount for _, amount in paid) <= due


@given(drawn.plans(), drawn.plans(), st.integers(0, 2**62))
@settings(max_examples=50)
def test_a_month_that_plan_changes_cut_costs_what_counting_unit_by_unit_says(plan, other, seed):
    chance = random.Random(seed)
    customer = Customer([plan, other], chance)
    for _ in range(8):
        found, expected = customer.month(chance.choice(STATUSES))
        assert found == expected


@pytest.mark.soak
def test_a_million_months_differ_from_the_oracle_by_nothing():
    counted = Counter()

    @given(drawn.plans(), drawn.plans(), st.integers(0, 2**62))
    @settings(
        max_examples=PLANS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    def check(plan, other, seed):
        chance = random.Random(seed)
        customer, read = Customer([plan, other], chance), plan_from_dict(plan)
        counted["plans"] += 1
        for charge in plan["charges"]:
            counted[f"charges: {charge['price']['kind']}"] += 1
        for _ in range(MONTHS_PER_PLAN):
            is_cut, status = chance.random() < CUT, chance.choice(STATUSES)
            found, expected = customer.month(status) if is_cut else random_month(read, plan, chance, status)
            counted["cases"] += 1
            if is_cut:
                counted[f"months of plan changes, parts with lines: {len({line[:2] for line in found})}"] += 1
            counted["lines"] += len(found)
            counted["minor units"] += sum(line[-3] - line[-2] + line[-1] for line in found)
            counted["minor units of difference"] += sum(
                abs(mine[place] - theirs[place])
                for mine, theirs in zip(found, expected, strict=True)
                for place in (-3, -2, -1)
            )
            assert found == expected

    try:
        check()
    finally:  # what was compared is told also of a run that is broken off
        for name, count in sorted(counted.items()):
            print(f"{name}: {count}", file=sys.stderr, flush=True)  # noqa: T201 - a measurement
    assert counted["cases"] >= PLANS * MONTHS_PER_PLAN


def random_month(read, plan, chance, status):
    """Return the lines of a month at one plan as they are billed, and as the oracle counts them."""
    uses = [random_use(chance) for _ in range(chance.randint(0, 8))]
    part = str(Fraction(chance.randint(0, 31), 31)) if chance.random() < 0.3 else "1"
    expected = oracle.bill(plan, uses, Fraction(part), status, AT.isoformat())
    return billed(read, uses, part, status), expected
