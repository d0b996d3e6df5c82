"""Plans as JSON: one canonical form that is kept and digested, and the forms in which people write amounts.

An amount is an exact fraction of the minor unit ("3/20000") or is written in the major unit with its currency
("0.15 USD per 1000000", "49.00 USD"); the canonical form has the fraction.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import rfc8785

from tritium_platform.billing.rating.discount import Discount
from tritium_platform.billing.rating.flat import FlatPrice
from tritium_platform.billing.rating.graduated import GraduatedPrice
from tritium_platform.billing.rating.matrix import MatrixCell, MatrixPrice
from tritium_platform.billing.rating.package import PackagePrice
from tritium_platform.billing.rating.per_unit import UnitPrice
from tritium_platform.billing.rating.plan import Charge, Plan
from tritium_platform.billing.rating.proration import Proration
from tritium_platform.billing.rating.rounding import Rounding
from tritium_platform.billing.rating.steps import Step
from tritium_platform.billing.rating.tax import TaxBasis, TaxRate
from tritium_platform.billing.rating.volume import VolumePrice
from tritium_platform.errors import ValidationError
from tritium_platform.metering.model import Meter
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import CURRENCY_DIGITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tritium_platform.billing.rating.matrix import ScalarPrice

EXACT = re.compile(r"\d{1,30}(?:/[1-9]\d{0,29})?", re.ASCII)
MAJOR = re.compile(r"(\d{1,12}(?:\.\d{1,12})?) ([A-Z]{3})(?: per ([1-9]\d{0,15}))?", re.ASCII)
SHARE = re.compile(r"\d{1,12}(?:/[1-9]\d{0,11}|\.\d{1,12})?", re.ASCII)
LARGEST_WHOLE = 2**53 - 1  # beyond it JSON has no exact numbers


def parse_amount(text: object, *, currency: str) -> Fraction:
    """Read an amount in minor units; ValidationError if it is none or of another currency."""
    if isinstance(text, str) and EXACT.fullmatch(text):
        return Fraction(text)
    match = MAJOR.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] != currency or currency not in CURRENCY_DIGITS:
        raise ValidationError(
            f"'{str(text)[:40]}' is not an amount: write a fraction of the minor unit, such as '3/20000', or "
            f"'0.15 {currency[:3]} per 1000000'.",
            field="amount",
        )
    minor_units: int = 10 ** CURRENCY_DIGITS[currency]
    return Fraction(match[1]) * minor_units / int(match[3] or 1)


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Spell a plan in plain JSON values."""
    return {
        "name": plan.name,
        "currency": plan.currency,
        "charges": [_charge_to_dict(charge) for charge in plan.charges],
        "discounts": [
            {
                "name": each.name,
                "share": str(each.share),
                "amount": each.amount,
                "charges": list(each.charges),
            }
            for each in plan.discounts
        ],
        "commitment": plan.commitment,
        "taxes": [
            {
                "jurisdiction": each.jurisdiction,
                "category": each.category,
                "valid_from": each.valid_from.isoformat(),
                "rate": str(each.rate),
            }
            for each in plan.taxes
        ],
        "tax_basis": plan.tax_basis.value,
        "proration": plan.proration.value,
        "rounding": plan.rounding.value,
    }


def canonical_plan(plan: Plan) -> bytes:
    """Write a plan in its one canonical form (RFC 8785)."""
    return rfc8785.dumps(plan_to_dict(plan))


def plan_id(plan: Plan) -> str:
    """Return the digest of the content, 32 hexadecimal digits: another price is another plan."""
    return hashlib.sha256(canonical_plan(plan)).hexdigest()[:32]


def plan_from_dict(plain: Mapping[str, Any]) -> Plan:
    """Read a plan as `plan_to_dict` or a person writes it; ValidationError names what is wrong."""
    try:
        _require_known(plain, Plan.__dataclass_fields__)
        currency = _text(plain["currency"])
        return Plan(
            name=_text(plain["name"]),
            currency=currency,
            charges=tuple(_charge(each, currency=currency) for each in plain["charges"]),
            discounts=tuple(_discount(each) for each in plain.get("discounts", ())),
            commitment=_whole(plain.get("commitment", 0)),
            taxes=tuple(_tax(each) for each in plain.get("taxes", ())),
            tax_basis=TaxBasis(plain.get("tax_basis", TaxBasis.PER_INVOICE)),
            proration=Proration(plain.get("proration", Proration.SECONDS)),
            rounding=Rounding(plain.get("rounding", Rounding.HALF_EVEN)),
        )
    except KeyError as error:
        raise ValidationError(f"The plan lacks {error}.") from error
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ValidationError(f"The plan cannot be read: {error}.") from error


def _charge_to_dict(charge: Charge) -> dict[str, Any]:
    return {
        "name": charge.name,
        "price": _price_to_dict(charge.price),
        "meter": charge.meter.value if charge.meter else None,
        "tier": charge.tier.value if charge.tier else None,
        "included": charge.included,
        "minimum": str(charge.minimum),
        "is_prorated": charge.is_prorated,
        "tax_category": charge.tax_category,
    }


def _price_to_dict(price: ScalarPrice | MatrixPrice) -> dict[str, Any]:
    match price:
        case FlatPrice():
            return {"kind": price.kind, "amount": str(price.amount)}
        case UnitPrice():
            return {"kind": price.kind, "unit_price": str(price.unit_price)}
        case PackagePrice():
            return {"kind": price.kind, "size": price.size, "amount": str(price.amount)}
        case GraduatedPrice() | VolumePrice():
            steps = [
                {"up_to": step.up_to, "unit_price": str(step.unit_price), "flat_fee": str(step.flat_fee)}
                for step in price.steps
            ]
            return {"kind": price.kind, "steps": steps}
        case MatrixPrice():
            cells = [
                {"values": list(cell.values), "price": _price_to_dict(cell.price)} for cell in price.cells
            ]
            return {"kind": price.kind, "dimensions": list(price.dimensions), "cells": cells}


def _charge(plain: Mapping[str, Any], *, currency: str) -> Charge:
    _require_known(plain, Charge.__dataclass_fields__)
    meter, tier = plain.get("meter"), plain.get("tier")
    return Charge(
        name=_text(plain["name"]),
        price=_price(plain["price"], currency=currency),
        meter=None if meter is None else Meter(meter),
        tier=None if tier is None else TenantTier(tier),
        included=_whole(plain.get("included", 0)),
        minimum=parse_amount(plain.get("minimum", "0"), currency=currency),
        is_prorated=_claim(plain.get("is_prorated", False)),
        tax_category=_text(plain.get("tax_category", "standard")),
    )


def _price(plain: Mapping[str, Any], *, currency: str) -> ScalarPrice | MatrixPrice:
    if plain["kind"] != MatrixPrice.kind:
        return _scalar(plain, currency=currency)
    _require_known(plain, ("kind", "dimensions", "cells"))
    cells = []
    for cell in plain["cells"]:
        _require_known(cell, ("values", "price"))
        values = tuple("" if value == "" else _text(value) for value in cell["values"])
        cells.append(MatrixCell(values, _scalar(cell["price"], currency=currency)))
    return MatrixPrice(tuple(_text(each) for each in plain["dimensions"]), tuple(cells))


def _scalar(plain: Mapping[str, Any], *, currency: str) -> ScalarPrice:
    kind = plain["kind"]
    if kind == FlatPrice.kind:
        _require_known(plain, ("kind", "amount"))
        return FlatPrice(parse_amount(plain["amount"], currency=currency))
    if kind == UnitPrice.kind:
        _require_known(plain, ("kind", "unit_price"))
        return UnitPrice(parse_amount(plain["unit_price"], currency=currency))
    if kind == PackagePrice.kind:
        _require_known(plain, ("kind", "size", "amount"))
        return PackagePrice(_whole(plain["size"]), parse_amount(plain["amount"], currency=currency))
    by_kind: dict[str, type[GraduatedPrice | VolumePrice]] = {
        GraduatedPrice.kind: GraduatedPrice,
        VolumePrice.kind: VolumePrice,
    }
    if kind not in by_kind:
        raise ValidationError(f"'{str(kind)[:40]}' is not a kind of price.", field="kind")
    _require_known(plain, ("kind", "steps"))
    return by_kind[kind](tuple(_step(step, currency=currency) for step in plain["steps"]))


def _step(plain: Mapping[str, Any], *, currency: str) -> Step:
    _require_known(plain, ("up_to", "unit_price", "flat_fee"))
    up_to = plain.get("up_to")
    return Step(
        None if up_to is None else _whole(up_to),
        parse_amount(plain.get("unit_price", "0"), currency=currency),
        parse_amount(plain.get("flat_fee", "0"), currency=currency),
    )


def _discount(plain: Mapping[str, Any]) -> Discount:
    _require_known(plain, Discount.__dataclass_fields__)
    return Discount(
        name=_text(plain["name"]),
        share=_share(plain.get("share", "0")),
        amount=_whole(plain.get("amount", 0)),
        charges=tuple(_text(each) for each in plain.get("charges", ())),
    )


def _tax(plain: Mapping[str, Any]) -> TaxRate:
    _require_known(plain, TaxRate.__dataclass_fields__)
    return TaxRate(
        jurisdiction=_text(plain["jurisdiction"]),
        category=_text(plain.get("category", "standard")),
        valid_from=datetime.fromisoformat(_text(plain["valid_from"])),
        rate=_share(plain["rate"]),
    )


def _require_known(plain: Mapping[str, Any], known: Any) -> None:
    unknown = set(plain) - set(known)
    if unknown:
        raise ValidationError(f"'{str(min(unknown, key=str))[:40]}' is not known in a plan.")


def _share(value: object) -> Fraction:
    if not isinstance(value, str) or SHARE.fullmatch(value) is None:
        raise ValidationError("A share is written as text, such as '0.19' or '19/100'.")
    return Fraction(value)


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST_WHOLE:
        raise ValidationError("A quantity of a plan is a whole number from 0 on.")
    return value


def _claim(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValidationError("What is true or false is written as true or false.")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200:  # noqa: PLR2004 - a name for people
        raise ValidationError("A name in a plan is a text of 1 to 200 characters.")
    return value
