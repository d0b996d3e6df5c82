"""A price list as a plan: the same prices, the same lines, the same amounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium_platform.billing.rating.per_unit import UnitPrice
from tritium_platform.billing.rating.plan import Charge, Plan
from tritium_platform.metering.model import Meter
from tritium_platform.tenancy.model import TenantTier

if TYPE_CHECKING:
    from tritium_platform.billing.model import PriceVersion


def plan_of(version: PriceVersion) -> Plan:
    """Return the plan of who has no contract: each meter of each tier at the list's unit price."""
    charges = [
        Charge(
            name=f"{tier.value}.{meter.value}",
            price=UnitPrice(price.unit_price),
            meter=meter,
            tier=tier,
            included=price.included,
        )
        for tier in sorted(TenantTier)
        for meter in sorted(Meter)
        for price in (version.price_of(meter, tier=tier),)
    ]
    return Plan(name=f"price list {version.id}", currency=version.currency, charges=tuple(charges))
