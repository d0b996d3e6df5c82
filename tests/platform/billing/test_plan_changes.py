"""A plan changes on any day of a month: each part of it costs what its own plan says, to the minor unit."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

import pytest
import tritium_billing_oracle as oracle
import tritium_billing_plans as drawn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium_platform.adapters.memory.books_reader import MemoryBooksReader, MemoryRunStore
from tritium_platform.adapters.memory.money_stores import MemoryPlanStore
from tritium_platform.billing.cii import write_cii
from tritium_platform.billing.document import interval_of
from tritium_platform.billing.focus import focus_rows
from tritium_platform.billing.list_plan import plan_of
from tritium_platform.billing.model import MeterPrice, PriceVersion
from tritium_platform.billing.page import page_of
from tritium_platform.billing.party import Party, Seller
from tritium_platform.billing.rating.plan_json import plan_from_dict, plan_to_dict
from tritium_platform.billing.rating.tax import TaxStatus
from tritium_platform.billing.reconciliation.model import Check
from tritium_platform.billing.reconciliation.provider import ManualProvider
from tritium_platform.billing.reconciliation.service import ReconciliationService
from tritium_platform.errors import ConflictError, NotFoundError, PlatformError
from tritium_platform.metering.model import Meter
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth, Interval, uuid7

AUGUST, SEPTEMBER, OCTOBER = (CalendarMonth(2026, month) for month in (8, 9, 10))
LENGTH = SEPTEMBER.end - SEPTEMBER.start
NOON_17 = datetime(2026, 9, 17, 12, tzinfo=UTC)
MIDNIGHT_17 = datetime(2026, 9, 17, tzinfo=UTC)


def a_plan(name, *, output="10", seat="300", **more):
    return {
        "name": name,
        "currency": "EUR",
        "charges": [
            {
                "name": "output",
                "meter": "output_tokens",
                "price": {"kind": "per_unit", "unit_price": output},
            },
            {"name": "seat", "price": {"kind": "flat", "amount": seat}, "is_prorated": True},
        ],
        **more,
    }


def a_list(currency="EUR", *, valid_from=datetime(2026, 1, 1, tzinfo=UTC), unit_price=3):
    price = MeterPrice(Fraction(unit_price), 0)
    return PriceVersion(currency, valid_from, {TenantTier.TEAM: {Meter.OUTPUT_TOKENS: price}})


def lines_of(body):
    return [
        (
            f"{interval_of(line).start:%d %H}-{interval_of(line).end:%d %H}" if "starts_at" in line else "",
            line["charge"],
            line["quantity"],
            line["net_minor"],
        )
        for line in body["lines"]
    ]


async def test_each_part_of_a_month_is_priced_by_the_plan_that_held(shop):
    await shop.sign(a_plan("small"), starts_at=SEPTEMBER.start)
    last = await shop.sign(a_plan("large", output="2", seat="600"), starts_at=NOON_17)
    await shop.use(7, at=NOON_17 - timedelta(microseconds=1))
    await shop.use(5, at=NOON_17)
    invoice, body = await shop.bill(SEPTEMBER)
    assert lines_of(body) == [
        ("01 00-17 12", "output", "7", 70),
        ("01 00-17 12", "seat", "1", 165),  # 16.5 of 30 days
        ("17 12-01 00", "output", "5", 10),
        ("17 12-01 00", "seat", "1", 270),
    ]
    assert (invoice.plan_id, invoice.contract_id) == (last.plan_id, last.id)
    assert body["plan_id"] == body["lines"][-1]["plan_id"] == last.plan_id != body["lines"][0]["plan_id"]
    assert [line["kind"] for line in body["lines"]] == ["charge"] * 4


async def test_a_line_of_a_part_explains_itself_with_the_uses_of_that_part(shop):
    await shop.sign(a_plan("same"), starts_at=SEPTEMBER.start)
    await shop.sign(a_plan("same"), starts_at=NOON_17)
    for number in range(3):
        await shop.use(number + 1, at=NOON_17 + timedelta(hours=number - 1), event=f"e{number}")
    invoice, body = await shop.bill(SEPTEMBER)
    found = {}
    for line in body["lines"]:
        events, after = await shop.desk.invoices.line_events(invoice, number=line["number"], limit=9)
        assert after is None
        digest = hashlib.sha256()
        for event in events:
            digest.update(json.dumps([event.source, event.event_id, str(event.quantity)]).encode() + b"\n")
        assert line["events"] == {"count": str(len(events)), "sha256": digest.hexdigest()}
        found[line["charge"], line["starts_at"]] = sorted(event.event_id for event in events)
    first, second = "2026-09-01T00:00:00.000000Z", "2026-09-17T12:00:00.000000Z"
    assert found["output", first] == ["e0"]
    assert found["output", second] == ["e1", "e2"]
    assert found["seat", first] == found["seat", second] == []
    note = await shop.desk.credit_notes.credit(
        invoice.id, amounts={3: 5}, reason="sorry", key=None, actor="test"
    )
    (line,) = (await shop.desk.invoices.body(note))["lines"]
    assert (line["credits_line"], line["starts_at"]) == (3, second)
    events, _ = await shop.desk.invoices.line_events(note, number=1, limit=9)
    assert sorted(event.event_id for event in events) == ["e1", "e2"]


async def test_a_late_use_is_priced_in_the_part_in_which_it_was(shop):
    steps = [{"up_to": 10, "unit_price": "10"}, {"up_to": None, "unit_price": "1"}]
    charge = {"name": "output", "meter": "output_tokens", "price": {"kind": "volume", "steps": steps}}
    await shop.sign(a_plan("small"), starts_at=SEPTEMBER.start)
    await shop.sign({**a_plan("volume"), "charges": [charge]}, starts_at=NOON_17)
    await shop.use(8, at=NOON_17 - timedelta(hours=1))
    await shop.use(8, at=NOON_17)
    _, body = await shop.bill(SEPTEMBER)
    assert [line["net_minor"] for line in body["lines"]] == [80, 165, 80]
    await shop.use(4, at=NOON_17)
    await shop.use(1, at=SEPTEMBER.start)
    await shop.use(1, at=OCTOBER.start)
    invoice, body = await shop.bill(OCTOBER)
    assert lines_of(body) == [
        ("", "output", "1", 10),
        ("01 00-17 12", "output", "1", 10),
        ("17 12-01 00", "output", "4", 12 - 80),
    ]
    events, _ = await shop.desk.invoices.line_events(invoice, number=3, limit=9)
    assert [event.quantity for event in events] == [4]


async def test_a_first_use_of_a_part_may_come_late(shop):
    await shop.sign({**a_plan("fee"), "charges": a_plan("fee")["charges"][1:]}, starts_at=SEPTEMBER.start)
    await shop.sign({**a_plan("use"), "charges": a_plan("use")["charges"][:1]}, starts_at=NOON_17)
    _, body = await shop.bill(SEPTEMBER)
    assert lines_of(body) == [("01 00-17 12", "seat", "1", 165)]
    await shop.use(2, at=NOON_17)
    _, body = await shop.bill(OCTOBER)
    assert lines_of(body) == [("17 12-01 00", "output", "2", 20)]


async def test_the_price_list_prices_what_no_contract_covers_in_its_currency(shop):
    await shop.prices.publish_prices(a_list())
    await shop.use(5, at=SEPTEMBER.start)
    await shop.sign(a_plan("first"), starts_at=NOON_17)
    await shop.use(5, at=NOON_17)
    _, body = await shop.bill(SEPTEMBER)
    assert lines_of(body) == [
        ("01 00-17 12", "team.output_tokens", "5", 15),
        ("17 12-01 00", "output", "5", 50),
        ("17 12-01 00", "seat", "1", 135),
    ]
    dearer = a_list(valid_from=datetime(2026, 2, 1, tzinfo=UTC), unit_price=9)
    await shop.prices.publish_prices(dearer)  # changes nothing that was charged
    await shop.use(2, at=SEPTEMBER.start)
    _, body = await shop.bill(OCTOBER)
    assert lines_of(body)[1:] == [("01 00-17 12", "team.output_tokens", "2", 6)]


@pytest.mark.parametrize("currency", [None, "USD"])
async def test_without_a_list_in_its_currency_a_contract_prices_its_whole_month_for_ever(shop, currency):
    if currency:
        await shop.prices.publish_prices(a_list(currency))
    await shop.use(5, at=SEPTEMBER.start)
    await shop.sign(a_plan("first"), starts_at=MIDNIGHT_17)
    _, body = await shop.bill(SEPTEMBER)
    assert lines_of(body) == [("", "output", "5", 50), ("", "seat", "1", 140)]
    await shop.prices.publish_prices(a_list(valid_from=datetime(2026, 2, 1, tzinfo=UTC)))
    await shop.use(2, at=SEPTEMBER.start)
    _, body = await shop.bill(OCTOBER)
    assert lines_of(body)[1:] == [("", "output", "2", 20)]


async def test_a_draft_of_a_month_with_a_gap_follows_the_list_until_it_is_finalized(shop):
    await shop.use(5, at=SEPTEMBER.start)
    await shop.sign(a_plan("first"), starts_at=NOON_17)
    (draft,) = await shop.desk.invoices.generate(shop.tenant_id, period=SEPTEMBER, actor="test")
    assert lines_of(await shop.desk.invoices.body(draft)) == [("", "output", "5", 50), ("", "seat", "1", 135)]
    for month, unit_price in ((1, 3), (2, 9)):
        valid_from = datetime(2026, month, 1, tzinfo=UTC)
        await shop.prices.publish_prices(a_list(valid_from=valid_from, unit_price=unit_price))
        said = lines_of(await shop.desk.invoices.body(draft))
        gap = ("01 00-17 12", "team.output_tokens", "5", 5 * unit_price)
        assert said == [gap, ("17 12-01 00", "seat", "1", 135)]
    while shop.clock.now() < SEPTEMBER.end:
        shop.clock.advance(seconds=86_400)
    invoice = await shop.desk.invoices.finalize(draft.id, actor="test")
    await shop.prices.publish_prices(a_list(valid_from=datetime(2026, 3, 1, tzinfo=UTC), unit_price=7))
    assert lines_of(await shop.desk.invoices.body(invoice)) == said


async def test_how_a_month_was_cut_stays_when_a_list_comes_later(shop):
    await shop.sign(a_plan("first"), starts_at=datetime(2026, 9, 10, tzinfo=UTC))
    await shop.sign(a_plan("second"), starts_at=NOON_17)
    await shop.use(5, at=SEPTEMBER.start)
    _, body = await shop.bill(SEPTEMBER)
    said = lines_of(body)
    assert [line[0] for line in said] == ["01 00-17 12", "01 00-17 12", "17 12-01 00"]
    await shop.prices.publish_prices(a_list())
    await shop.use(2, at=SEPTEMBER.start)
    _, body = await shop.bill(OCTOBER)
    assert lines_of(body)[1:] == [("01 00-17 12", "output", "2", 20)]


async def test_what_one_invoice_cannot_say_is_refused_within_a_month(shop):
    await shop.sign(a_plan("first"), starts_at=SEPTEMBER.start)
    dollars = {**a_plan("dollars"), "currency": "USD"}
    with pytest.raises(ConflictError, match="from EUR to USD"):
        await shop.sign(dollars, starts_at=NOON_17)
    rates = [
        {"jurisdiction": "DE", "category": "standard", "valid_from": "2026-01-01T00:00:00Z", "rate": "0.19"}
    ]
    with pytest.raises(ConflictError, match="taxed otherwise"):
        await shop.sign({**a_plan("taxed"), "taxes": rates}, tax=TaxStatus("DE"), starts_at=NOON_17)
    await shop.sign(a_plan("second"), starts_at=NOON_17)
    with pytest.raises(ConflictError, match="same instant"):
        await shop.sign(a_plan("third"), starts_at=NOON_17)
    with pytest.raises(ConflictError, match="starts later"):
        await shop.sign(a_plan("third"), starts_at=MIDNIGHT_17)
    await shop.sign(dollars, starts_at=OCTOBER.start)


async def test_a_month_that_is_drafted_or_billed_gets_no_other_plan(shop):
    await shop.sign(a_plan("first"), starts_at=SEPTEMBER.start)
    (draft,) = await shop.desk.invoices.generate(shop.tenant_id, period=SEPTEMBER, actor="test")
    with pytest.raises(ConflictError, match="void it before"):
        await shop.sign(a_plan("second"), starts_at=NOON_17)
    await shop.desk.settlement.void(draft.id, actor="test")
    await shop.sign(a_plan("second"), starts_at=NOON_17)
    invoice, body = await shop.bill(SEPTEMBER)
    assert len(body["lines"]) == 2
    with pytest.raises(ConflictError, match="2026-09 is billed already"):
        await shop.sign(a_plan("third"), starts_at=SEPTEMBER.end - timedelta(seconds=1))
    assert await shop.desk.invoices.body(invoice) == body


async def test_a_month_is_billed_anew_as_it_was_cut_after_its_invoice_was_void(shop):
    await shop.sign(a_plan("first"), starts_at=SEPTEMBER.start)
    await shop.sign(a_plan("second"), starts_at=NOON_17)
    await shop.use(3, at=NOON_17)
    first, said = await shop.bill(SEPTEMBER)
    await shop.desk.settlement.void(first.id, actor="test")
    second, body = await shop.bill(SEPTEMBER)
    assert body["lines"] == said["lines"]
    with pytest.raises(NotFoundError):
        await shop.desk.invoices.line_events(second, number=9, limit=1)


async def add_contract(shop, earlier, *, starts_at):
    """Put a contract past all that refuses it, as one that comes in while a month is billed."""
    late = replace(earlier, id=uuid7(shop.clock), starts_at=starts_at)
    assert await MemoryPlanStore(shop.database).add_contract(late)


class Silence:
    async def differs(self, difference, *, run_id):
        """Say nothing."""


async def differences(shop):
    """Return what the reconciliation finds."""
    reader = MemoryBooksReader(shop.database)
    service = ReconciliationService(
        reader=reader,
        runs=MemoryRunStore(shop.database),
        books=shop.desk.books,
        plans=shop.desk.plans,
        provider=ManualProvider(reader),
        alarm=Silence(),
    )
    found = (await service.run()).differences
    return [(each.check, each.subject, each.expected, each.found) for each in found]


async def test_a_month_that_was_billed_whole_stays_whole_whatever_contract_comes_in(shop):
    contract = await shop.sign(a_plan("first"), starts_at=SEPTEMBER.start)
    await shop.bill(SEPTEMBER)
    await add_contract(shop, contract, starts_at=NOON_17)
    await shop.use(2, at=NOON_17)
    _, body = await shop.bill(OCTOBER)
    assert lines_of(body)[1:] == [("", "output", "2", 20)]


async def test_a_month_whose_parts_are_not_those_it_was_charged_in_is_not_priced(shop):
    contract = await shop.sign(a_plan("first"), starts_at=SEPTEMBER.start)
    await shop.sign(a_plan("second"), starts_at=NOON_17)
    await shop.bill(SEPTEMBER)
    assert await differences(shop) == []
    await add_contract(shop, contract, starts_at=NOON_17 + timedelta(days=1))
    assert (Check.MONTH, "seat", "0 for 0", "135 for 1") in (await differences(shop))
    await shop.use(2, at=NOON_17)
    with pytest.raises(PlatformError, match="does not fit"):
        await shop.bill(OCTOBER)


SELLER = Seller(
    party=Party(name="Tritium", street=("Hauptstr. 1",), post_code="10115", city="Berlin", country="DE"),
    registration_id="HRB 12345",
)


async def test_paper_and_programs_are_told_the_days_of_a_part(make_shop):
    shop = make_shop(seller=SELLER)
    await shop.desk.plans.name_buyer(shop.tenant_id, Party(name="Acme", country="FR"), actor="test")
    await shop.sign(a_plan("first"), starts_at=SEPTEMBER.start)
    await shop.sign(a_plan("second"), starts_at=MIDNIGHT_17)
    await shop.sign(a_plan("third"), starts_at=datetime(2026, 9, 20, 9, 30, tzinfo=UTC))
    _, body = await shop.bill(SEPTEMBER)
    assert [line["detail"] for line in page_of(body, sha256="0" * 64)["lines"]] == [
        "1 September 2026 to 16 September 2026",
        "17 September 2026 to 20 September 2026 09:30 UTC",
        "20 September 2026 09:30 UTC to 30 September 2026",
    ]
    rows = [(row["ChargePeriodStart"], row["ChargePeriodEnd"]) for row in focus_rows(body)]
    marks = ["2026-09-01T00:00:00Z", "2026-09-17T00:00:00Z", "2026-09-20T09:30:00Z", "2026-10-01T00:00:00Z"]
    assert rows == list(pairwise(marks))
    xml = write_cii(body).decode()
    periods = xml.split("<ram:BillingSpecifiedPeriod>")[1:4]
    days = [[part[:8] for part in each.split('format="102">')[1:3]] for each in periods]
    assert days == [["20260901", "20260916"], ["20260917", "20260920"], ["20260920", "20260930"]]


# What follows lets Hypothesis choose plans and instants.

instants = st.one_of(
    st.integers(-45, 29).map(lambda day: SEPTEMBER.start + timedelta(days=day)),
    st.integers(-(10**12), LENGTH // timedelta(microseconds=1) - 1).map(
        lambda ticks: SEPTEMBER.start + timedelta(microseconds=ticks)
    ),
)
within = st.integers(0, LENGTH // timedelta(microseconds=1) - 1).map(
    lambda ticks: SEPTEMBER.start + timedelta(microseconds=ticks)
)
price = st.builds(MeterPrice, st.sampled_from(drawn.EIGHTHS), st.integers(0, 9))
tiers = st.dictionaries(st.sampled_from(Meter), price, max_size=3)
prices = st.dictionaries(st.sampled_from(TenantTier), tiers, max_size=3)


@st.composite
def histories(draw):
    """Contracts as the oracle reads them, in their order: some of one plan, some with an end."""
    known = [{**plan, "currency": "EUR"} for plan in draw(st.lists(drawn.plans(), min_size=1, max_size=2))]
    starts = sorted(draw(st.lists(instants, min_size=1, max_size=4, unique=True)))
    ends = st.one_of(st.none(), st.timedeltas(timedelta(microseconds=1), timedelta(days=40)))
    made = []
    for starts_at in starts:
        lasts = draw(ends)
        ends_at = None if lasts is None else starts_at + lasts
        made.append({"plan": draw(st.sampled_from(known)), "starts_at": starts_at, "ends_at": ends_at})
    return made


timed = st.lists(
    st.builds(
        lambda use, at, is_late: {**use, "device": "", "at": at, "is_late": is_late},
        st.fixed_dictionaries(
            {
                "meter": st.sampled_from(drawn.METERS),
                "tier": st.sampled_from(drawn.TIERS),
                "model": st.sampled_from(drawn.MODELS),
                "quantity": st.integers(1, 12),
            }
        ),
        within,
        st.booleans(),
    ),
    max_size=8,
)
lists = st.one_of(
    st.none(),
    st.builds(
        PriceVersion, st.sampled_from(["EUR", "USD"]), st.just(datetime(2026, 1, 1, tzinfo=UTC)), prices
    ),
)


async def conclude(shop, history, version):
    if version is not None:
        await shop.prices.publish_prices(version)
    for each in history:
        plan_id = await shop.desk.plans.publish(plan_from_dict(each["plan"]), actor="test")
        await shop.desk.plans.conclude(
            shop.tenant_id,
            plan=plan_id,
            starts_at=each["starts_at"],
            ends_at=each["ends_at"],
            payment_days=14,
            tax=TaxStatus(),
            actor="test",
        )


async def record(shop, uses):
    for use in uses:
        counted = {"output_tokens": 0, use["meter"]: use["quantity"]}
        tokens = counted.pop("output_tokens")
        await shop.use(tokens, at=use["at"], tier=TenantTier(use["tier"]), model=use["model"], **counted)


def expected(history, version, uses):
    """Return what the oracle says of September: (interval, charge, ..., discount) of every line."""
    start, end = SEPTEMBER.start, SEPTEMBER.end
    listed = None if version is None else plan_to_dict(plan_of(version))
    marks = [each["starts_at"] for each in history] + [start]
    is_contracted = any(oracle.holder(history, mark) is not None for mark in marks if start <= mark < end)
    if is_contracted and listed is not None and listed["currency"] != "EUR":
        listed = None
    if not is_contracted and listed is None:
        return None
    return [
        (Interval(since, until), *line[:7])
        for since, until, _, lines in oracle.bill_month(history, listed, uses, start, end)
        for line in lines
    ]


@given(histories(), lists, timed)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_a_month_of_any_plans_costs_what_counting_unit_by_unit_says(
    make_shop_at, history, version, uses
):
    shop = make_shop_at()
    await conclude(shop, history, version)
    await record(shop, uses)
    wanted = expected(history, version, uses)
    if wanted is None:
        return
    preview = await shop.desk.invoices.preview(shop.tenant_id, period=SEPTEMBER)
    found = [
        (
            each.interval or SEPTEMBER.interval,
            each.line.charge,
            each.line.cell,
            each.line.quantity,
            each.line.included,
            each.line.exact,
            each.line.amount,
            each.line.discount,
        )
        for each in preview.lines
        if each.month == SEPTEMBER
    ]
    assert found == wanted


async def bill_all(shop, *, until):
    """Finalize every draft of the months up to one; return what the invoices say."""
    while shop.clock.now() < until.end:
        shop.clock.advance(seconds=86_400)
    made = await shop.desk.invoices.generate(shop.tenant_id, period=until, actor="test")
    done = [await shop.desk.invoices.finalize(each.id, actor="test") for each in made]
    return [(each, await shop.desk.invoices.body(each)) for each in done]


@given(histories(), lists, timed)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_late_or_in_time_a_use_costs_the_same_and_a_line_names_exactly_its_uses(
    make_shop_at, history, version, uses
):
    shop = make_shop_at()
    await conclude(shop, history, version)
    wanted = expected(history, version, uses)
    if wanted is None:
        return
    await shop.sign(a_plan("what follows"), starts_at=OCTOBER.start)
    await record(shop, [use for use in uses if not use["is_late"]])
    said = await bill_all(shop, until=SEPTEMBER)
    await record(shop, [use for use in uses if use["is_late"]])
    said += await bill_all(shop, until=OCTOBER)
    charged = Counter()
    for line in await shop.desk.books.invoices.charged(shop.tenant_id, SEPTEMBER):
        key = (line.interval or SEPTEMBER.interval, *line.key)
        charged[key, "quantity"] += line.quantity
        charged[key, "net"] += line.net_minor
    sums = Counter()
    for interval, charge, cell, quantity, _, _, amount, discount in wanted:
        sums[(interval, charge, cell), "quantity"] += quantity
        sums[(interval, charge, cell), "net"] += amount - discount
    assert +charged == +sums
    for invoice, body in said:
        for line in body["lines"]:
            if line["meter"]:
                events, _ = await shop.desk.invoices.line_events(invoice, number=line["number"], limit=99)
                assert sum(event.quantity for event in events) == int(line["quantity"])
                times = [datetime.fromisoformat(event.occurred_at) for event in events]
                assert all(interval_of(line).holds(each) for each in times)


linear = st.fixed_dictionaries({"kind": st.just("per_unit"), "unit_price": drawn.amounts})


conventions = st.fixed_dictionaries(
    {
        "proration": st.sampled_from(["seconds", "days"]),
        "rounding": st.sampled_from(["half_even", "half_up"]),
    }
)


@given(
    st.tuples(st.lists(linear, min_size=3, max_size=3), drawn.amounts, st.integers(0, 80)),
    conventions,
    st.lists(within, min_size=1, max_size=4, unique=True),
    timed,
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_a_change_to_the_same_plan_moves_no_minor_unit_of_unit_prices_fees_and_commitment(
    make_shop_at, prices, convention, cuts, uses
):
    units, fee, commitment = prices
    metered = [
        {"name": meter, "meter": meter, "price": each}
        for meter, each in zip(drawn.METERS, units, strict=True)
    ]
    seat = {"name": "seat", "price": {"kind": "flat", "amount": fee}, "is_prorated": True}
    plain = {"currency": "EUR", **convention}
    plan = {**plain, "name": "units and fee", "charges": [*metered, seat]}
    promise = {**plain, "name": "promise", "charges": [], "commitment": commitment}

    async def sums(plan, starts):
        shop = make_shop_at()
        for start in starts:
            await shop.sign(plan, starts_at=start)
        await record(shop, uses)
        preview = await shop.desk.invoices.preview(shop.tenant_id, period=SEPTEMBER)
        found = Counter()
        for each in preview.lines:
            found[each.line.charge] += each.line.net
            found[each.line.charge, "quantity"] += each.line.quantity if each.line.meter else 0
        return +found

    before = AUGUST.start
    for each in (plan, promise):
        assert await sums(each, [before, *sorted(cuts)]) == await sums(each, [before])


async def test_what_a_change_to_the_same_plan_does_begin_anew(shop):
    graduated = [{"up_to": 10, "unit_price": "10"}, {"up_to": None, "unit_price": "1"}]
    plan = {
        "name": "steps, free units and whole fees",
        "currency": "EUR",
        "charges": [
            {
                "name": "output",
                "meter": "output_tokens",
                "included": 5,
                "price": {"kind": "graduated", "steps": graduated},
            },
            {"name": "setup", "price": {"kind": "flat", "amount": "70"}},
        ],
        "discounts": [{"name": "off", "amount": 3, "charges": ["setup"]}],
    }
    await shop.use(20, at=SEPTEMBER.start)
    await shop.use(20, at=NOON_17)
    await shop.sign(plan, starts_at=SEPTEMBER.start)
    preview = await shop.desk.invoices.preview(shop.tenant_id, period=SEPTEMBER)
    assert [each.line.net for each in preview.lines] == [100 + 25, 67]
    await shop.sign(plan, starts_at=NOON_17)
    preview = await shop.desk.invoices.preview(shop.tenant_id, period=SEPTEMBER)
    assert [each.line.net for each in preview.lines] == [100 + 5, 67] * 2


@pytest.fixture(scope="module")
def make_shop_at():
    """Makes services of money with books of their own, for every example."""
    return next(
        module.Shop
        for name, module in list(sys.modules.items())
        if name.endswith("conftest") and hasattr(module, "Shop")
    )
