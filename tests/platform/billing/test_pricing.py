"""Prices: exact, and the same whichever way the usage is cut."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritium_platform.billing.model import MeterPrice, PriceVersion
from tritium_platform.billing.pricing import (
    calculate_usage_cost,
    default_price_version,
    parse_price,
    parse_price_list,
    price_totals,
)
from tritium_platform.errors import ValidationError
from tritium_platform.metering.model import (
    Meter,
    OperationType,
    ResourceUsage,
    UsageQuantities,
    UsageRecord,
    UsageTotal,
)
from tritium_platform.tenancy.model import TenantTier

if TYPE_CHECKING:
    import random

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
meter_prices = st.builds(MeterPrice, st.fractions(0, 5, max_denominator=10**6), st.integers(0, 60))
price_versions = st.builds(
    PriceVersion,
    st.sampled_from(["USD", "JPY", "KWD"]),
    st.just(NEW_YEAR),
    st.dictionaries(
        st.sampled_from(TenantTier),
        st.dictionaries(st.sampled_from(Meter), meter_prices, max_size=5),
        max_size=3,
    ),
)
records = st.builds(
    UsageRecord,
    id=st.just(UUID(int=1)),
    tenant_id=st.just(UUID(int=2)),
    source=st.just("gateway"),
    event_id=st.just("1"),
    operation=st.just(OperationType.CHAT),
    tier=st.sampled_from(TenantTier),
    outcome=st.just("success"),
    occurred_at=st.just(NEW_YEAR),
    quantities=st.builds(
        UsageQuantities,
        input_tokens=st.integers(0, 40),
        output_tokens=st.integers(0, 40),
        embedding_tokens=st.integers(0, 40),
        quantized_parameters=st.integers(0, 40),
    ),
    resources=st.builds(ResourceUsage, compute_time_ms=st.integers(0, 40)),
)


def brute_force(usage: list[UsageRecord], version: PriceVersion) -> dict[tuple[TenantTier, Meter], Fraction]:
    """Price unit by unit: the first ones of a month are included, each other one costs the unit price."""
    seen: Counter[tuple[TenantTier, Meter]] = Counter()
    costs: dict[tuple[TenantTier, Meter], Fraction] = {}
    for record in usage:
        for meter, quantity in record.metered().items():
            key = (record.tier, meter)
            price = version.prices.get(record.tier, {}).get(meter)
            for _ in range(quantity):
                seen[key] += 1
                unit = price.unit_price if price is not None and seen[key] > price.included else Fraction(0)
                costs[key] = costs.get(key, Fraction(0)) + unit
    return costs


def totals_of(usage: list[UsageRecord]) -> list[UsageTotal]:
    sums: Counter[tuple[TenantTier, Meter]] = Counter()
    for record in usage:
        for meter, quantity in record.metered().items():
            sums[record.tier, meter] += quantity
    return [UsageTotal(*key, quantity) for key, quantity in sums.items()]


@given(st.lists(records, max_size=12), price_versions)
@settings(max_examples=300, deadline=None)
def test_a_month_costs_what_counting_unit_by_unit_says(
    usage: list[UsageRecord], version: PriceVersion
) -> None:
    expected = brute_force(usage, version)
    cost = price_totals(totals_of(usage), price_version=version)
    assert {(line.tier, line.meter): line.amount for line in cost.lines} == expected


@given(st.lists(records, max_size=12), price_versions)
@settings(max_examples=200, deadline=None)
def test_records_one_by_one_cost_exactly_what_their_sum_costs(
    usage: list[UsageRecord], version: PriceVersion
) -> None:
    before: Counter[tuple[TenantTier, Meter]] = Counter()
    one_by_one = Fraction(0)
    for record in usage:
        used = {meter: before[record.tier, meter] for meter in Meter}
        one_by_one += calculate_usage_cost(record, price_version=version, used_before=used).total
        for meter, quantity in record.metered().items():
            before[record.tier, meter] += quantity
    assert one_by_one == price_totals(totals_of(usage), price_version=version).total


@given(st.lists(records, max_size=12), price_versions, st.randoms(use_true_random=False))
def test_the_order_of_the_records_does_not_matter(
    usage: list[UsageRecord], version: PriceVersion, shuffling: random.Random
) -> None:
    shuffled = list(usage)
    shuffling.shuffle(shuffled)
    assert price_totals(totals_of(shuffled), price_version=version) == price_totals(
        totals_of(usage), price_version=version
    )


def test_large_quantities_stay_exact() -> None:
    version = PriceVersion(
        currency="USD",
        valid_from=NEW_YEAR,
        prices={TenantTier.TEAM: {Meter.INPUT_TOKENS: MeterPrice(Fraction(1, 3))}},
    )
    total = UsageTotal(TenantTier.TEAM, Meter.INPUT_TOKENS, 3 * (2**63 - 1))
    assert price_totals([total], price_version=version).total == 2**63 - 1


def test_a_line_explains_itself() -> None:
    price = MeterPrice(Fraction(1, 4), included=10)
    version = PriceVersion("USD", NEW_YEAR, {TenantTier.TEAM: {Meter.OUTPUT_TOKENS: price}})
    (line,) = price_totals(
        [UsageTotal(TenantTier.TEAM, Meter.OUTPUT_TOKENS, 25)], price_version=version
    ).lines
    assert (line.quantity, line.included, line.billable, line.amount) == (25, 10, 15, Fraction(15, 4))


@pytest.mark.parametrize(
    ("text", "currency", "unit_price"),
    [
        ("0.15 per 1000000", "USD", Fraction(15, 10**6)),
        ("2 per 1", "JPY", Fraction(2)),
        ("0.001 per 3", "KWD", Fraction(1, 3)),
        ("0 per 1", "EUR", Fraction(0)),
    ],
)
def test_a_price_is_read_exactly(text: str, currency: str, unit_price: Fraction) -> None:
    assert parse_price(text, currency=currency, included=4) == MeterPrice(unit_price, 4)


@pytest.mark.parametrize(
    "text", ["", "1", "1 per 0", "-1 per 2", "1e3 per 2", "nan per 2", "1,5 per 2", "1 per 2\n", "१ per २"]
)
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_price(text, currency="USD")


@pytest.mark.parametrize(
    "wrong",
    [
        {"prices": {"gold": {"input_tokens": "1 per 1"}}},
        {"prices": {"team": {"smiles": "1 per 1"}}},
        {"prices": {"team": {"input_tokens": "cheap"}}},
        {"currency": "XXX"},
        {"included": {"team": {"input_tokens": -1}}},
        {"valid_from": datetime(2026, 1, 1)},  # noqa: DTZ001 - the naive time is the point
    ],
)
def test_a_wrong_price_list_is_refused(wrong: dict[str, object]) -> None:
    good = {"prices": {"team": {"input_tokens": "1 per 1"}}, "included": {}, "currency": "USD"}
    good["valid_from"] = NEW_YEAR
    parse_price_list(**good)
    with pytest.raises(ValidationError):
        parse_price_list(**{**good, **wrong})


def test_another_price_is_another_version() -> None:
    version = default_price_version()
    assert version.id == default_price_version().id
    dearer = PriceVersion(
        version.currency,
        version.valid_from,
        {**version.prices, TenantTier.TEAM: {Meter.INPUT_TOKENS: MeterPrice(Fraction(1))}},
    )
    assert dearer.id != version.id


def test_the_default_prices_name_every_tier() -> None:
    version = default_price_version()
    for tier in TenantTier:
        for meter in set(Meter) - {Meter.COMPUTE_MS}:
            assert version.price_of(meter, tier=tier).unit_price > 0
