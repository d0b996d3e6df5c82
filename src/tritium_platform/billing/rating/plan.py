"""A plan: everything that decides what a period costs, in one document that never changes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from tritium_platform.billing.rating.matrix import MatrixPrice
from tritium_platform.billing.rating.proration import Proration
from tritium_platform.billing.rating.rounding import Rounding
from tritium_platform.billing.rating.steps import require_amounts
from tritium_platform.billing.rating.tax import STANDARD, TaxBasis, TaxCode
from tritium_platform.errors import ValidationError
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CURRENCY_DIGITS

if TYPE_CHECKING:
    from tritium_platform.billing.rating.discount import Discount
    from tritium_platform.billing.rating.matrix import ScalarPrice
    from tritium_platform.billing.rating.tax import TaxRate
    from tritium_platform.metering.model import Meter

CHARGE_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,99}")
COMMITMENT = "commitment"
NOTHING = Fraction(0)
LineKey = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One thing that is charged for.

    Attributes:
        name: unique in its plan; the name of the invoice line.
        price: what the billable quantity costs.
        meter: what is counted; None for a fee per period, whose quantity is 1.
        tier: whose use it is for; None: everybody's.
        included: units per period that cost nothing; in a matrix its cells use them up in their order.
        minimum: minor units that the charge costs at least, also where nothing is used.
        is_prorated: whether a fee and a minimum shrink to the part of the period that the contract covers.
        tax_category: which rates of the tax table apply.
    """

    name: str
    price: ScalarPrice | MatrixPrice
    meter: Meter | None = None
    tier: TenantTier | None = None
    included: int = 0
    minimum: Fraction = NOTHING
    is_prorated: bool = False
    tax_category: str = STANDARD

    def __post_init__(self) -> None:
        if CHARGE_NAME.fullmatch(self.name) is None or self.name == COMMITMENT:
            raise ValidationError(f"'{self.name[:40]}' cannot be the name of a charge.", field="name")
        if type(self.included) is not int or self.included < 0:
            raise ValidationError("An included quantity is a whole number from 0 on.", field="included")
        require_amounts(self.minimum)
        is_matrix = isinstance(self.price, MatrixPrice)
        if self.meter is None and (is_matrix or self.included or self.tier is not None):
            raise ValidationError("A fee per period has no matrix, included units or tier.", field="meter")
        if is_matrix and self.minimum:
            raise ValidationError("A matrix has no minimum: it has a line per cell.", field="minimum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan that never changes; a new price is a new plan.

    Attributes:
        name: for people.
        currency: of every amount in it.
        charges: in the order of the invoice; each use is priced by at most one.
        discounts: taken off one after the other.
        commitment: minor units that the charges of a period come to at least.
        taxes: the table of rates.
        tax_basis: what of the tax is rounded.
        proration: what is counted where a contract covers a part of a period; the commitment shrinks, too.
        rounding: what happens to exactly half a minor unit.
    """

    name: str
    currency: str
    charges: tuple[Charge, ...]
    discounts: tuple[Discount, ...] = ()
    commitment: int = 0
    taxes: tuple[TaxRate, ...] = ()
    tax_basis: TaxBasis = TaxBasis.PER_INVOICE
    proration: Proration = Proration.SECONDS
    rounding: Rounding = Rounding.HALF_EVEN

    def __post_init__(self) -> None:
        if self.currency not in CURRENCY_DIGITS:
            raise ValidationError(f"The currency '{self.currency[:10]}' is not known.", field="currency")
        if type(self.commitment) is not int or self.commitment < 0:
            raise ValidationError("A commitment is a whole number of minor units.", field="commitment")
        names = [charge.name for charge in self.charges]
        if len(set(names)) < len(names):
            raise ValidationError("Two charges of a plan have the same name.", field="charges")
        for discount in self.discounts:
            if not set(discount.charges) <= set(names):
                raise ValidationError("A discount names a charge that is not in the plan.", field="discounts")
        self._require_one_price_each()

    def _require_one_price_each(self) -> None:
        seen: set[tuple[Meter, TenantTier]] = set()
        for charge in self.charges:
            if charge.meter is None:
                continue
            mine = {(charge.meter, tier) for tier in ([charge.tier] if charge.tier else list(TenantTier))}
            if mine & seen:
                raise ValidationError(
                    f"'{charge.name}' prices {charge.meter.value} a second time.", field="charges"
                )
            seen |= mine


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much was used of a meter, of one kind; `device` is empty where the record does not say."""

    meter: Meter
    tier: TenantTier
    quantity: int
    model: str = ""
    device: str = ""

    def properties(self) -> dict[str, str]:
        """Return what a matrix looks at."""
        return {"model": self.model, "device": self.device, "tier": self.tier.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a period: how it came about, and its one rounding.

    Attributes:
        charge: the charge of the plan, or `commitment`.
        cell: the values of the matrix cell; empty elsewhere.
        quantity: units used.
        included: how many of them cost nothing.
        exact: the exact amount in minor units.
        amount: that, rounded once.
        discount: minor units taken off.
        tax: minor units of tax on what is left.
        tax_rate: the rate of that tax.
        tax_code: why it is that rate.
    """

    charge: str
    exact: Fraction
    amount: int
    meter: Meter | None = None
    tier: TenantTier | None = None
    cell: tuple[str, ...] = ()
    quantity: int = 0
    included: int = 0
    discount: int = 0
    tax: int = 0
    tax_category: str = STANDARD
    tax_rate: Fraction = NOTHING
    tax_code: TaxCode = TaxCode.NOT_TAXED

    @property
    def key(self) -> LineKey:
        """Names the line within its period."""
        return self.charge, self.cell

    @property
    def net(self) -> int:
        """Minor units before tax."""
        return self.amount - self.discount
