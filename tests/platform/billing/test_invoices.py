"""Invoices: what they say, what late use does to them, and what must not matter."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium_platform.billing.document import SCHEMA
from tritium_platform.billing.export import write_csv
from tritium_platform.billing.invoice import InvoiceStatus
from tritium_platform.billing.list_plan import plan_of
from tritium_platform.billing.model import MeterPrice, PriceVersion
from tritium_platform.billing.pricing import default_price_version, price_totals
from tritium_platform.billing.rating.plan import Usage
from tritium_platform.billing.rating.plan_json import plan_from_dict
from tritium_platform.billing.rating.rate import rate
from tritium_platform.billing.rating.tax import TaxStatus
from tritium_platform.errors import ConflictError, NotFoundError, ValidationError
from tritium_platform.metering.model import Meter, UsageTotal
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CalendarMonth

SEPTEMBER, OCTOBER = CalendarMonth(2026, 9), CalendarMonth(2026, 10)
VOLUME = {
    "name": "volume",
    "currency": "EUR",
    "charges": [
        {
            "name": "output",
            "meter": "output_tokens",
            "price": {
                "kind": "volume",
                "steps": [{"up_to": 100, "unit_price": "10"}, {"up_to": None, "unit_price": "1"}],
            },
        }
    ],
    "taxes": [
        {
            "jurisdiction": "DE",
            "category": "standard",
            "valid_from": "2026-01-01T00:00:00+00:00",
            "rate": "0.19",
        }
    ],
}


async def test_a_late_use_changes_what_its_month_costs_not_what_was_said(shop):
    await shop.sign(VOLUME, tax=TaxStatus("DE"))
    await shop.use(100)
    first, said = await shop.bill(SEPTEMBER)
    assert (first.total_minor, said["net_minor"], said["tax_minor"]) == (1190, 1000, 190)
    await shop.use(50, at=SEPTEMBER.end - timedelta(seconds=1))  # 150 units cost 150, not 1000
    await shop.use(7, at=OCTOBER.start)
    second, body = await shop.bill(OCTOBER)
    lines = [(line["period"], line["kind"], line["quantity"], line["net_minor"]) for line in body["lines"]]
    assert lines == [("2026-10", "charge", "7", 70), ("2026-09", "adjustment", "50", -850)]
    assert (second.total_minor, second.status) == (-928, InvoiceStatus.PAID)
    (grant,) = await shop.desk.grants.list(shop.tenant_id)
    assert (grant.remaining_minor, grant.reason) == (928, f"surplus of {second.number}")
    assert await shop.desk.invoices.body(first) == said
    await shop.use(100, at=OCTOBER.end)
    third, body = await shop.bill(OCTOBER.next())
    assert (third.total_minor, third.drawn_minor, third.open_minor) == (1190, 928, 262)
    assert body["due_minor"] == 262


async def test_every_line_says_which_uses_it_is_made_of(shop):
    await shop.prices.publish_prices(default_price_version())
    records = [
        await shop.use(10**6 * number, tier=tier, input_tokens=5 * 10**6)
        for number, tier in enumerate([TenantTier.TEAM, TenantTier.DEVELOPER, TenantTier.TEAM], start=1)
    ]
    invoice, body = await shop.bill(SEPTEMBER)
    assert body["schema"] == SCHEMA
    explained = 0
    for line in body["lines"]:
        found, after = [], None
        while True:
            page, after = await shop.desk.invoices.line_events(
                invoice, number=line["number"], limit=2, after=after
            )
            found += page
            if after is None:
                break
        digest = hashlib.sha256()
        for event in found:
            digest.update(json.dumps([event.source, event.event_id, str(event.quantity)]).encode() + b"\n")
        assert sum(event.quantity for event in found) == int(line["quantity"])
        assert line["events"] == {"count": str(len(found)), "sha256": digest.hexdigest()}
        assert {event.usage_id for event in found} <= {record.id for record in records}
        explained += len(found)
    assert explained == 6
    with pytest.raises(NotFoundError):
        await shop.desk.invoices.line_events(invoice, number=99, limit=2)


async def test_a_month_that_is_not_over_is_not_finalized(shop):
    await shop.sign(VOLUME)
    await shop.use(1)
    (draft,) = await shop.desk.invoices.generate(shop.tenant_id, period=SEPTEMBER, actor="test")
    with pytest.raises(ConflictError, match="not over"):
        await shop.desk.invoices.finalize(draft.id, actor="test")
    assert await shop.desk.invoices.generate(shop.tenant_id, period=SEPTEMBER, actor="test") == []
    await shop.desk.settlement.void(draft.id, actor="test")
    with pytest.raises(ConflictError, match="void"):
        await shop.desk.invoices.finalize(draft.id, actor="test")
    again, _ = await shop.bill(SEPTEMBER)
    assert (again.number, again.total_minor) == ("INV-00000001", 10)


async def test_nothing_used_is_nothing_to_bill(shop):
    await shop.prices.publish_prices(default_price_version())
    assert await shop.desk.invoices.generate(shop.tenant_id, period=SEPTEMBER, actor="test") == []


async def test_a_contract_pins_the_plan_and_changes_no_month_that_is_billed(shop):
    first = await shop.sign(VOLUME)
    await shop.use(100)
    await shop.bill(SEPTEMBER)
    cheaper = {**VOLUME, "name": "cheaper", "charges": []}
    with pytest.raises(ConflictError, match="billed already"):
        await shop.sign(cheaper, starts_at=SEPTEMBER.start)
    second = await shop.sign(cheaper, starts_at=OCTOBER.next().start)
    assert [each.id for each in await shop.desk.plans.contracts(shop.tenant_id)] == [first.id, second.id]
    with pytest.raises(ConflictError, match="later"):
        await shop.sign(VOLUME, starts_at=OCTOBER.start)
    await shop.use(100, at=OCTOBER.start)
    assert (await shop.bill(OCTOBER))[0].total_minor == 1000


async def test_the_tax_is_that_of_the_month_and_not_of_the_day_of_the_invoice(shop):
    raised = {**VOLUME["taxes"][0], "valid_from": "2026-10-01T00:00:00+00:00", "rate": "0.21"}
    await shop.sign({**VOLUME, "taxes": [*VOLUME["taxes"], raised]}, tax=TaxStatus("DE"))
    await shop.use(100)
    first, _ = await shop.bill(SEPTEMBER)  # in October
    assert first.total_minor == 1190
    await shop.use(100, at=SEPTEMBER.start)
    await shop.use(10, at=OCTOBER.start)
    _, body = await shop.bill(OCTOBER)
    lines = [(line["period"], line["net_minor"], line["tax_minor"]) for line in body["lines"]]
    assert lines == [("2026-10", 100, 21), ("2026-09", -800, -152)]


async def test_a_late_use_is_taxed_by_its_own_plan_after_a_change(shop):
    books = {**VOLUME["taxes"][0], "category": "books", "rate": "0.07"}
    charge = {**VOLUME["charges"][0], "tax_category": "books"}
    await shop.sign({**VOLUME, "charges": [charge], "taxes": [*VOLUME["taxes"], books]}, tax=TaxStatus("DE"))
    await shop.use(100)
    await shop.bill(SEPTEMBER)
    await shop.sign(VOLUME, tax=TaxStatus("DE"), starts_at=OCTOBER.start)
    await shop.use(100, at=SEPTEMBER.start)
    await shop.use(10, at=OCTOBER.start)
    _, body = await shop.bill(OCTOBER)
    lines = [(line["net_minor"], line["tax_rate"], line["tax_minor"]) for line in body["lines"]]
    assert lines == [(100, "19/100", 19), (-800, "7/100", -56)]
    french = {**VOLUME["taxes"][0], "jurisdiction": "FR", "rate": "0.2"}
    moved = {**VOLUME, "name": "moved", "taxes": [french]}
    with pytest.raises(ValidationError, match="'books' in FR"):
        await shop.sign(moved, tax=TaxStatus("FR"), starts_at=OCTOBER.next().start)
    both = [french, {**french, "category": "books", "rate": "0.055"}]
    await shop.sign({**moved, "taxes": both}, tax=TaxStatus("FR"), starts_at=OCTOBER.next().start)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a\0b"},
        {"name": "\ud800"},
        {"taxes": [VOLUME["taxes"][0], {**VOLUME["taxes"][0], "rate": "0.07"}]},
    ],
)
async def test_a_plan_that_cannot_be_kept_or_means_two_things_is_not_published(shop, wrong):
    with pytest.raises(ValidationError):
        await shop.desk.plans.publish(plan_from_dict({**VOLUME, **wrong}), actor="test")


async def test_a_contract_says_what_can_be_kept_and_starts_after_the_first_use(shop):
    with pytest.raises(ValidationError, match="printed"):
        await shop.sign(VOLUME, tax=TaxStatus("DE", tax_id="DE\0"))
    with pytest.raises(ValidationError, match="2000"):
        await shop.sign(VOLUME, starts_at=datetime(1999, 12, 31, tzinfo=UTC))


async def test_credit_that_was_granted_under_a_key_is_found_after_it_expired(shop):
    wish = {
        "currency": "EUR",
        "amount_minor": 5,
        "reason": "promo",
        "expires_at": shop.clock.now() + timedelta(days=1),
        "key": "k",
        "actor": "test",
    }
    first = await shop.desk.grants.grant(shop.tenant_id, **wish)
    shop.clock.advance(seconds=2 * 86_400)
    assert (await shop.desk.grants.grant(shop.tenant_id, **wish)).id == first.id
    with pytest.raises(ValidationError, match="expires"):
        await shop.desk.grants.grant(shop.tenant_id, **{**wish, "key": "other"})


async def test_a_plan_without_the_tax_rate_makes_no_contract(shop):
    with pytest.raises(ValidationError, match="no tax rate"):
        await shop.sign(VOLUME, tax=TaxStatus("FR"))
    assert await shop.desk.plans.contracts(shop.tenant_id) == []


async def test_the_reverse_charge_leaves_the_tax_to_the_customer_and_says_so(shop):
    await shop.sign(VOLUME, tax=TaxStatus("DE", is_reverse_charge=True, tax_id="DE123456789"))
    await shop.use(3)
    invoice, body = await shop.bill(SEPTEMBER)
    assert (invoice.total_minor, body["tax_minor"]) == (30, 0)
    assert body["tax"] == {"jurisdiction": "DE", "is_reverse_charge": True, "tax_id": "DE123456789"}


async def test_currencies_have_invoices_of_their_own(shop):
    await shop.prices.publish_prices(default_price_version())
    await shop.use(10**9)
    await shop.sign(VOLUME, starts_at=OCTOBER.start)
    await shop.use(5, at=OCTOBER.start)
    while shop.clock.now() < OCTOBER.end:
        shop.clock.advance(seconds=86_400)
    made = await shop.desk.invoices.generate(shop.tenant_id, period=OCTOBER, actor="test")
    assert sorted(each.currency for each in made) == ["EUR", "USD"]
    done = [await shop.desk.invoices.finalize(each.id, actor="test") for each in made]
    assert {each.currency: each.total_minor for each in done} == {"EUR": 50, "USD": 32000}


async def test_a_draft_of_its_own_keeps_a_month_out_of_the_next_one(shop):
    await shop.sign(VOLUME)
    await shop.use(5)
    (waiting,) = await shop.desk.invoices.generate(shop.tenant_id, period=SEPTEMBER, actor="test")
    await shop.use(7, at=OCTOBER.start)
    _, body = await shop.bill(OCTOBER)
    assert [line["period"] for line in body["lines"]] == ["2026-10"]
    assert (await shop.desk.invoices.finalize(waiting.id, actor="test")).total_minor == 50


async def test_csv_has_a_row_per_line_and_no_formula(shop):
    await shop.sign(VOLUME)
    await shop.use(100)
    _, body = await shop.bill(SEPTEMBER)
    body["lines"][0]["charge"] = "=1+1"
    rows = list(csv.DictReader(io.StringIO(write_csv(body))))
    assert [(row["invoice_number"], row["line_charge"], row["line_net_minor"]) for row in rows] == [
        ("INV-00000001", "'=1+1", "1000")
    ]


async def test_credit_expires_into_income_and_pays_for_nothing_after(shop):
    await shop.sign(VOLUME)
    day = timedelta(days=1)
    key = {"key": None, "actor": "test", "currency": "EUR", "reason": "prepaid"}
    await shop.desk.grants.grant(shop.tenant_id, amount_minor=300, expires_at=shop.clock.now() + day, **key)
    await shop.desk.grants.grant(shop.tenant_id, amount_minor=400, priority=1, **key)
    shop.clock.advance(seconds=86_400)
    assert await shop.desk.grants.expire() == 1
    assert await shop.desk.grants.expire() == 0
    await shop.use(100)
    invoice, body = await shop.bill(SEPTEMBER)
    assert (invoice.drawn_minor, invoice.open_minor) == (400, 600)
    assert [each["amount_minor"] for each in body["credits"]] == [400]


@pytest.mark.parametrize("amount", [0, -1, 1.0, True, "5"])
async def test_only_whole_minor_units_above_zero_are_paid_granted_or_credited(shop, amount):
    await shop.sign(VOLUME)
    await shop.use(100)
    invoice, _ = await shop.bill(SEPTEMBER)
    key = {"key": None, "actor": "test"}
    with pytest.raises(ValidationError):
        await shop.desk.settlement.record_payment(invoice.id, amount_minor=amount, reference="wire", **key)
    with pytest.raises(ValidationError):
        await shop.desk.grants.grant(
            shop.tenant_id, currency="EUR", amount_minor=amount, reason="prepaid", **key
        )
    with pytest.raises(ValidationError):
        await shop.desk.credit_notes.credit(invoice.id, amounts={1: amount}, reason="sorry", **key)
    assert (await shop.desk.invoices.get(invoice.id)) == invoice


async def test_a_key_belongs_to_one_request_for_ever(shop):
    await shop.sign(VOLUME)
    await shop.use(100)
    invoice, _ = await shop.bill(SEPTEMBER)
    pay = shop.desk.settlement.record_payment
    once = {"key": "k1", "actor": "test", "reference": "wire"}
    paid = await pay(invoice.id, amount_minor=10, **once)
    shop.clock.advance(seconds=10**8)
    assert await pay(invoice.id, amount_minor=10, **once) == paid
    with pytest.raises(ValidationError, match="another request"):
        await pay(invoice.id, amount_minor=11, **once)
    note = await shop.desk.credit_notes.credit(
        invoice.id, amounts={1: 5}, reason="sorry", key="k2", actor="test"
    )
    same = await shop.desk.credit_notes.credit(
        invoice.id, amounts={1: 5}, reason="sorry", key="k2", actor="test"
    )
    assert same == note
    assert len(await shop.desk.books.invoices.credit_notes(invoice.id)) == 1


async def test_crediting_a_line_bit_by_bit_credits_exactly_its_tax(shop):
    await shop.sign(VOLUME, tax=TaxStatus("DE"))
    await shop.use(33)
    invoice, body = await shop.bill(SEPTEMBER)
    (line,) = body["lines"]
    credited = 0
    for part in (1, 7, 100, 111, 111):
        note = await shop.desk.credit_notes.credit(
            invoice.id, amounts={1: part}, reason="sorry", key=None, actor="test"
        )
        credited += note.total_minor
    assert credited == line["net_minor"] + line["tax_minor"] == invoice.total_minor
    with pytest.raises(ValidationError, match="left to credit"):
        await shop.desk.credit_notes.credit(
            invoice.id, amounts={1: 1}, reason="sorry", key=None, actor="test"
        )
    assert (await shop.desk.invoices.get(invoice.id)).status is InvoiceStatus.PAID


prices = st.builds(MeterPrice, st.fractions(0, 5, max_denominator=10**6), st.integers(0, 60))
lists = st.builds(
    PriceVersion,
    st.sampled_from(["USD", "JPY", "KWD"]),
    st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    st.dictionaries(
        st.sampled_from(TenantTier), st.dictionaries(st.sampled_from(Meter), prices, max_size=5), max_size=3
    ),
)
totals = st.dictionaries(
    st.tuples(st.sampled_from(TenantTier), st.sampled_from(Meter)), st.integers(1, 10**12), max_size=9
)


@given(lists, totals)
@settings(max_examples=200)
def test_a_price_list_as_a_plan_costs_exactly_the_same(version, quantities):
    cost = price_totals(
        [UsageTotal(tier, meter, quantity) for (tier, meter), quantity in quantities.items()],
        price_version=version,
    )
    usage = [
        Usage(meter=meter, tier=tier, quantity=quantity) for (tier, meter), quantity in quantities.items()
    ]
    lines = rate(plan_of(version), usage=usage)
    for line, each in zip(lines, cost.lines, strict=True):
        found = (line.tier, line.meter, line.quantity, line.included, line.exact)
        assert found == (each.tier, each.meter, each.quantity, each.included, each.amount)
        assert line.amount == line.net == round(each.amount)


def without_ids(body):
    changing = ("id", "tenant_id", "contract_id", "issued_at", "due_at")
    return {name: value for name, value in body.items() if name not in changing}


async def told(shop, uses, *, order, resent, hops):
    """Bill some uses that arrive in an order, some of them twice, while the clock moves in hops."""
    await shop.sign({**VOLUME, "charges": [*VOLUME["charges"], SEAT]}, starts_at=SEPTEMBER.start)
    for place in order:
        tokens, day = uses[place]
        record = await shop.use(tokens, at=SEPTEMBER.start + timedelta(days=day), event=f"e{place}")
        if place in resent:
            assert await shop.usage.insert(record) == record.body_sha256()
    for hop in hops:
        shop.clock.advance(seconds=hop * 86_400)
        await shop.desk.calendar.run()
    _, body = await shop.bill(SEPTEMBER) if not hops else await finalize_all(shop)
    lines = [{name: value for name, value in line.items() if name != "events"} for line in body["lines"]]
    return without_ids(body) | {"lines": lines}


async def finalize_all(shop):
    while shop.clock.now() < SEPTEMBER.end:
        shop.clock.advance(seconds=86_400)
    await shop.desk.calendar.run()
    (draft,) = [each for each in await shop.desk.invoices.list(limit=9) if each.period == SEPTEMBER]
    invoice = await shop.desk.invoices.finalize(draft.id, actor="test")
    return invoice, await shop.desk.invoices.body(invoice)


SEAT = {"name": "seat", "price": {"kind": "flat", "amount": "123/7"}, "is_prorated": True}


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 29)), min_size=1, max_size=6),
    st.integers(0, 2**32),
    st.lists(st.integers(0, 20), max_size=3),
)
@settings(max_examples=60)
async def test_order_resending_and_the_clock_do_not_matter(make_shop_at, uses, seed, hops):
    chance = random.Random(seed)
    order = list(range(len(uses)))
    plain = await told(make_shop_at(), uses, order=order, resent=(), hops=[])
    chance.shuffle(order)
    resent = {place for place in order if chance.random() < 0.5}
    assert await told(make_shop_at(), uses, order=order, resent=resent, hops=hops) == plain


@pytest.fixture(scope="module")
def make_shop_at():
    import sys  # noqa: PLC0415

    conftest = next(
        module
        for name, module in list(sys.modules.items())
        if name.endswith("conftest") and hasattr(module, "Shop")
    )
    return lambda: conftest.Shop(SEPTEMBER.start)


def test_the_parts_of_a_cut_month_cover_it_exactly():
    from tritium_platform.billing.rating.proration import Proration, part_of_period  # noqa: PLC0415

    @given(st.integers(-7 * 24, 35 * 24), st.sampled_from(Proration))
    def check(hours, by):
        cut = SEPTEMBER.start + timedelta(hours=hours)
        first, last = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
        parts = [
            part_of_period(SEPTEMBER.start, SEPTEMBER.end, active_from=start, active_until=end, by=by)
            for start, end in ((first, cut), (cut, last))
        ]
        assert sum(parts) == 1
        assert all(0 <= part <= 1 for part in parts)

    check()
    half = SEPTEMBER.start + timedelta(days=15)
    for by in Proration:
        part = part_of_period(
            SEPTEMBER.start, SEPTEMBER.end, active_from=half, active_until=SEPTEMBER.end, by=by
        )
        assert part == Fraction(1, 2)
    noon = SEPTEMBER.start + timedelta(hours=12)
    counted = [
        part_of_period(SEPTEMBER.start, SEPTEMBER.end, active_from=noon, active_until=SEPTEMBER.end, by=by)
        for by in (Proration.SECONDS, Proration.DAYS)
    ]
    assert counted == [Fraction(59, 60), Fraction(29, 30)]


async def test_a_preview_says_what_the_invoice_will_say_and_keeps_nothing(shop):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    price = {Meter.OUTPUT_TOKENS: MeterPrice(Fraction(1, 3), 10)}
    await shop.prices.publish_prices(PriceVersion("USD", start, dict.fromkeys(TenantTier, price)))
    for at in (SEPTEMBER.start, SEPTEMBER.end - timedelta(microseconds=1), SEPTEMBER.end):
        await shop.use(100, at=at)
        await shop.use(6, at=at, tier=TenantTier.DEVELOPER)
    preview = await shop.desk.invoices.preview(shop.tenant_id, period=SEPTEMBER)
    lines = [
        (each.line.tier, each.line.quantity, each.line.included, each.line.net) for each in preview.lines
    ]
    assert lines == [(TenantTier.DEVELOPER, 12, 10, 1), (TenantTier.TEAM, 200, 10, 63)]
    assert preview.total_minor == 64
    assert await shop.desk.invoices.list() == []
    invoice, _ = await shop.bill(SEPTEMBER)
    assert (invoice.total_minor, invoice.plan_id) == (64, preview.invoice.plan_id)


async def test_what_changes_prices_leaves_a_draft_as_it_was(shop):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    price = {Meter.OUTPUT_TOKENS: MeterPrice(Fraction(2))}
    await shop.prices.publish_prices(PriceVersion("USD", start, dict.fromkeys(TenantTier, price)))
    await shop.use(100)
    (draft,) = await shop.desk.invoices.generate(shop.tenant_id, period=SEPTEMBER, actor="test")
    dearer = {Meter.OUTPUT_TOKENS: MeterPrice(Fraction(9))}
    later = PriceVersion("USD", start + timedelta(days=1), dict.fromkeys(TenantTier, dearer))
    await shop.prices.publish_prices(later)
    with pytest.raises(ConflictError, match="draft of that month"):
        await shop.sign(VOLUME)
    while shop.clock.now() < SEPTEMBER.end:
        shop.clock.advance(seconds=86_400)
    invoice = await shop.desk.invoices.finalize(draft.id, actor="test")
    body = await shop.desk.invoices.body(invoice)
    assert (invoice.total_minor, invoice.plan_id) == (200, draft.plan_id)
    assert {line["plan_id"] for line in body["lines"]} == {draft.plan_id}
    await shop.use(1, at=SEPTEMBER.start)  # and so does what comes late
    await shop.use(1, at=OCTOBER.start)
    _, body = await shop.bill(OCTOBER)
    assert [(line["period"], line["net_minor"]) for line in body["lines"]] == [
        ("2026-10", 9),
        ("2026-09", 2),
    ]


async def test_a_line_of_a_credit_note_leads_to_the_uses_that_the_invoice_charged(shop):
    await shop.sign(VOLUME)
    used = await shop.use(100)
    invoice, _ = await shop.bill(SEPTEMBER)
    note = await shop.desk.credit_notes.credit(
        invoice.id, amounts={1: 5}, reason="sorry", key=None, actor="test"
    )
    events, _ = await shop.desk.invoices.line_events(note, number=1, limit=2)
    assert [(each.usage_id, each.quantity) for each in events] == [(used.id, 100)]
    with pytest.raises(NotFoundError, match="no such line"):
        await shop.desk.invoices.line_events(note, number=2, limit=2)
    rows = list(csv.DictReader(io.StringIO(write_csv(await shop.desk.invoices.body(note)))))
    assert [(row["invoice_number"], row["line_net_minor"]) for row in rows] == [("CN-00000001", "5")]


LARGE = {"name": "large", "currency": "EUR", "taxes": VOLUME["taxes"]}


async def test_an_amount_beyond_what_json_counts_exactly_is_written_as_text(shop):
    price = {"kind": "per_unit", "unit_price": "100001"}
    charges = [{"name": "output", "meter": "output_tokens", "price": price}]
    await shop.sign({**LARGE, "charges": charges}, tax=TaxStatus("DE"))
    await shop.use(10**12 + 1)
    invoice, body = await shop.bill(SEPTEMBER)
    net = (10**12 + 1) * 100_001
    tax = (net * 19 + 50) // 100
    assert invoice.total_minor == body["total_minor"] == net + tax
    (line,) = body["lines"]
    assert (line["net_minor"], line["tax_minor"], line["exact_minor"]) == (net, tax, str(net))
    document = await shop.desk.books.invoices.document(invoice.id)
    said = json.loads(document.body)
    assert (said["total_minor"], said["lines"][0]["net_minor"]) == (str(net + tax), str(net))
    assert await shop.desk.invoices.body(invoice) == body
    note = await shop.desk.credit_notes.credit(
        invoice.id, amounts={1: net}, reason="a mistake", key=None, actor="test"
    )
    assert (await shop.desk.invoices.body(note))["total_minor"] == note.total_minor == net + tax


async def test_an_amount_beyond_what_the_books_hold_is_refused_in_words(shop):
    price = {"kind": "per_unit", "unit_price": "100000000"}
    charges = [{"name": "output", "meter": "output_tokens", "price": price}]
    await shop.sign({**LARGE, "charges": charges}, tax=TaxStatus("DE"))
    await shop.use(10**12)
    with pytest.raises(ValidationError, match="beyond what the books hold"):
        await shop.bill(SEPTEMBER)
