"""From quantities to amounts: pure, exact, one multiplication per line."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING

from tritium_platform.billing.model import CostBreakdown, CostLine, MeterPrice, PriceVersion
from tritium_platform.errors import ValidationError
from tritium_platform.metering.model import Meter
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CURRENCY_DIGITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium_platform.metering.model import UsageRecord, UsageTotal

PRICE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?) per ([1-9]\d{0,15})", re.ASCII)
NOTHING_BEFORE: dict[Meter, int] = {}


def price_line(
    meter: Meter, *, tier: TenantTier, quantity: int, price: MeterPrice, used_before: int = 0
) -> CostLine:
    """Price a quantity of one meter of which `used_before` units of the month came earlier."""
    free = max(0, price.included - used_before)
    included = min(quantity, free)
    return CostLine(
        tier=tier,
        meter=meter,
        quantity=quantity,
        included=included,
        unit_price=price.unit_price,
        amount=(quantity - included) * price.unit_price,
    )


def calculate_usage_cost(
    record: UsageRecord, *, price_version: PriceVersion, used_before: Mapping[Meter, int] = NOTHING_BEFORE
) -> CostBreakdown:
    """Price one use, given what the tenant used of each meter earlier in the month at this tier.

    Priced one after the other, the records of a month cost exactly what their sum costs.
    """
    lines = tuple(
        price_line(
            meter,
            tier=record.tier,
            quantity=quantity,
            price=price_version.price_of(meter, tier=record.tier),
            used_before=used_before.get(meter, 0),
        )
        for meter, quantity in record.metered().items()
        if quantity
    )
    return CostBreakdown(currency=price_version.currency, price_version=price_version.id, lines=lines)


def price_totals(totals: Sequence[UsageTotal], *, price_version: PriceVersion) -> CostBreakdown:
    """Price the sums of a month: one line per tier and meter, in a fixed order."""
    lines = tuple(
        price_line(
            total.meter,
            tier=total.tier,
            quantity=total.quantity,
            price=price_version.price_of(total.meter, tier=total.tier),
        )
        for total in sorted(totals, key=lambda each: (each.tier, each.meter))
        if total.quantity
    )
    return CostBreakdown(currency=price_version.currency, price_version=price_version.id, lines=lines)


def parse_price(text: str, *, currency: str, included: int = 0) -> MeterPrice:
    """Read a price such as `0.15 per 1000000` (major units of the currency); ValidationError if malformed."""
    match = PRICE.fullmatch(text)
    if match is None:
        raise ValidationError(f"'{text[:40]}' is not a price: write it as '0.15 per 1000000'.", field="price")
    if currency not in CURRENCY_DIGITS:
        raise ValidationError(f"The currency '{currency[:10]}' is not known.", field="currency")
    amount, units = match.groups()
    minor_units = Fraction(amount) * 10 ** CURRENCY_DIGITS[currency]
    return MeterPrice(unit_price=minor_units / int(units), included=included)


def parse_price_list(
    prices: Mapping[str, Mapping[str, str]],
    *,
    included: Mapping[str, Mapping[str, int]],
    currency: str,
    valid_from: datetime,
) -> PriceVersion:
    """Read a price list by the names of tiers and meters; ValidationError names what is wrong."""
    try:
        parsed = {
            TenantTier(tier): {
                Meter(meter): parse_price(
                    text, currency=currency, included=included.get(tier, {}).get(meter, 0)
                )
                for meter, text in of_tier.items()
            }
            for tier, of_tier in prices.items()
        }
    except ValueError as error:
        raise ValidationError(f"The price list names an unknown tier or meter: {error}.") from error
    return PriceVersion(currency=currency, valid_from=valid_from, prices=parsed)


# The operator sets prices in the configuration; these stand until then. Computing time has no price of its
# own: it is metered for insight, and the tokens carry it.
DEFAULT_PRICES = {
    "developer": {
        "input_tokens": "0.10 per 1000000",
        "output_tokens": "0.40 per 1000000",
        "embedding_tokens": "0.02 per 1000000",
        "quantized_parameters": "0.50 per 1000000000",
    },
    "team": {
        "input_tokens": "0.08 per 1000000",
        "output_tokens": "0.32 per 1000000",
        "embedding_tokens": "0.016 per 1000000",
        "quantized_parameters": "0.40 per 1000000000",
    },
    "business": {
        "input_tokens": "0.06 per 1000000",
        "output_tokens": "0.24 per 1000000",
        "embedding_tokens": "0.012 per 1000000",
        "quantized_parameters": "0.30 per 1000000000",
    },
}
DEFAULT_CURRENCY = "USD"
DEFAULT_VALID_FROM = datetime(2026, 1, 1, tzinfo=UTC)


def default_price_version() -> PriceVersion:
    """Return the prices that stand until the operator sets others."""
    return parse_price_list(
        DEFAULT_PRICES, included={}, currency=DEFAULT_CURRENCY, valid_from=DEFAULT_VALID_FROM
    )
