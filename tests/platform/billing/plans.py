"""Plans, uses and customers as Hypothesis draws them: small enough to count, with every feature in it."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

from hypothesis import strategies as st

METERS = ["input_tokens", "output_tokens", "embedding_tokens"]
TIERS = ["developer", "team", "business"]
MODELS = ["small", "large"]
DEVICES = ["cpu", "cuda", ""]
CURRENCIES = ["USD", "JPY", "KWD"]
AT = datetime(2026, 11, 30, tzinfo=UTC)
TOMORROW = "2026-12-01T00:00:00+00:00"

# Halves, thirds and things that never come out even. Hypothesis takes five times as long to draw a fraction
# of its own, and a plan has dozens.
EIGHTHS = sorted({Fraction(number, by) for by in range(1, 9) for number in range(9 * by + 1)})
fine = st.integers(0, 3_000_000).map(lambda millionths: Fraction(millionths, 10**6).limit_denominator(1000))
amounts = st.one_of(st.sampled_from(EIGHTHS), fine, st.just(0)).map(str)
counts = st.integers(0, 12)
currency = st.sampled_from(CURRENCIES)


@st.composite
def steps(draw):
    bounds = draw(st.lists(st.integers(1, 14), max_size=3, unique=True).map(sorted))
    return [
        {"up_to": bound, "unit_price": draw(amounts), "flat_fee": draw(amounts)} for bound in [*bounds, None]
    ]


scalars = st.one_of(
    st.fixed_dictionaries({"kind": st.just("flat"), "amount": amounts}),
    st.fixed_dictionaries({"kind": st.just("per_unit"), "unit_price": amounts}),
    st.fixed_dictionaries({"kind": st.just("package"), "size": st.integers(1, 9), "amount": amounts}),
    st.fixed_dictionaries({"kind": st.sampled_from(["graduated", "volume"]), "steps": steps()}),
)


@st.composite
def matrices(draw):
    values = {"model": MODELS, "device": DEVICES, "tier": TIERS}
    dimensions = draw(st.lists(st.sampled_from(list(values)), min_size=1, max_size=3, unique=True))
    one = st.tuples(*(st.sampled_from([*values[name], "*"]) for name in dimensions))
    last = ("*",) * len(dimensions)
    keys = draw(st.lists(one.filter(lambda each: each != last), max_size=3, unique=True))
    cells = [{"values": list(key), "price": draw(scalars)} for key in [*keys, last]]
    return {"kind": "matrix", "dimensions": dimensions, "cells": cells}


@st.composite
def charges(draw):
    made = []
    for meter in METERS:
        for tier in draw(st.sampled_from([[], [None], [None], TIERS, TIERS[:1]])):
            price = draw(st.one_of(scalars, scalars, matrices()))
            is_matrix = price["kind"] == "matrix"
            made.append(
                {
                    "name": f"{tier or 'any'}.{meter}",
                    "price": price,
                    "meter": meter,
                    "tier": tier,
                    "included": draw(counts),
                    "minimum": "0" if is_matrix else draw(st.one_of(st.just("0"), amounts)),
                    "is_prorated": draw(st.booleans()),
                    "tax_category": draw(st.sampled_from(["standard", "reduced"])),
                }
            )
    fee = {"kind": "flat", "amount": draw(amounts)}
    if draw(st.booleans()):
        made.append(made_fee("seat", fee, is_prorated=draw(st.booleans())))
    return made


def made_fee(name, price, *, is_prorated):
    return {
        "name": name,
        "price": price,
        "meter": None,
        "tier": None,
        "included": 0,
        "minimum": "0",
        "is_prorated": is_prorated,
        "tax_category": "standard",
    }


@st.composite
def discounts(draw, names):
    made = []
    for number in range(draw(st.integers(0, 2))):
        is_share = draw(st.booleans())
        share = draw(st.fractions(0, 1, max_denominator=12).filter(bool))
        amount = draw(st.integers(1, 40))
        chosen = draw(st.lists(st.sampled_from(names), max_size=2, unique=True)) if names else []
        made.append(
            {
                "name": f"discount {number}",
                "share": str(share) if is_share else "0",
                "amount": 0 if is_share else amount,
                "charges": chosen,
            }
        )
    return made


def tax_table(draw):
    table = []
    for jurisdiction in ("DE", "FR"):
        for category in ("standard", "reduced"):
            for since in ("2026-01-01T00:00:00+00:00", "2026-11-01T00:00:00+00:00", TOMORROW):
                rate = draw(st.sampled_from(["19/100", "7/100", "1/5", "0", "1/3"]))
                table.append(
                    {"jurisdiction": jurisdiction, "category": category, "valid_from": since, "rate": rate}
                )
    return table


@st.composite
def plans(draw):
    """A plan as the JSON document of `plan_from_dict`, complete."""
    made = draw(charges())
    return {
        "name": "drawn",
        "currency": draw(currency),
        "charges": made,
        "discounts": draw(discounts([charge["name"] for charge in made])),
        "commitment": draw(st.one_of(st.just(0), st.integers(0, 80))),
        "taxes": tax_table(draw),
        "tax_basis": draw(st.sampled_from(["per_line", "per_invoice"])),
        "proration": draw(st.sampled_from(["seconds", "days"])),
        "rounding": draw(st.sampled_from(["half_even", "half_up"])),
    }


statuses = st.sampled_from([("", False), ("DE", False), ("FR", False), ("DE", True)])
parts = st.one_of(st.just("1"), st.fractions(0, 1, max_denominator=31).map(str))
uses = st.lists(
    st.fixed_dictionaries(
        {
            "meter": st.sampled_from([*METERS, "compute_ms"]),
            "tier": st.sampled_from(TIERS),
            "model": st.sampled_from(MODELS),
            "device": st.sampled_from(DEVICES),
            "quantity": counts,
        }
    ),
    max_size=8,
)
