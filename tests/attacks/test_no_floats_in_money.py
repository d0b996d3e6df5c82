"""No floating point number comes near money: not in the code, not in the tables, not through the doors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from sqlalchemy import Double, Float, Numeric

import tritium_platform
from tritium_platform.adapters.sql.schema import metadata
from tritium_platform.billing.rating.plan_json import plan_from_dict
from tritium_platform.errors import ValidationError
from tritium_platform.values import Money

SOURCE = Path(tritium_platform.__file__).parent
MONEY = [
    *sorted((SOURCE / "billing").rglob("*.py")),
    SOURCE / "values.py",
    *(
        SOURCE / "adapters" / "sql" / f"{name}_store.py"
        for name in ("invoice", "journal", "credit", "plan", "payment")
    ),
    SOURCE / "adapters" / "sql" / "billed_usage_store.py",
    SOURCE / "adapters" / "stripe_objects.py",
    *(
        SOURCE / "adapters" / "memory" / f"{name}.py"
        for name in ("invoice_store", "money_stores", "payment_store")
    ),
    *(SOURCE / "api" / name for name in ("billing.py", "invoices.py", "money_schemas.py")),
    *(SOURCE / "cli" / name for name in ("billing.py", "documents.py", "prices.py")),
]
FORBIDDEN_NAMES = {"float", "Decimal", "fdiv", "truediv", "fsum", "isclose", "total_seconds"}
# Where a true division divides an exact fraction, and never two whole numbers.
DIVIDES_FRACTIONS = {"plan_json.py": 1, "pricing.py": 1}
# A clock waits for seconds; money does not.
CLOCK = {"values.py": {"float"}}
TABLES = ("price_plans", "contracts", "invoices", "number_series", "credit_grants", "credit_draws")
TABLES += ("invoice_documents", "invoice_lines", "invoice_events", "invoice_payments")
TABLES += ("payment_attempts", "payment_refunds", "payment_disputes")
TABLES += ("journal_groups", "journal_entries", "price_versions", "usage_records")


def faults(path):
    divisions = 0
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield f"{where}: the number {node.value}"
        named = getattr(node, "id", None) or getattr(node, "attr", None)
        if named in FORBIDDEN_NAMES - CLOCK.get(path.name, set()):
            yield f"{where}: {named}"
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            divisions += 1
    if divisions != DIVIDES_FRACTIONS.get(path.name, 0):
        yield f"{path.name}: {divisions} true divisions"


@pytest.mark.parametrize("path", MONEY, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_code_about_money_knows_a_float(path):
    assert list(faults(path)) == []


@pytest.mark.parametrize("line", ["x = 0.1", "x = float(y)", "x = a / b", "x = Decimal(y)"])
def test_the_search_finds_one(tmp_path, line):
    (tmp_path / "sabotaged.py").write_text(line)
    assert len(list(faults(tmp_path / "sabotaged.py"))) == 1


@pytest.mark.parametrize("name", TABLES)
def test_no_table_about_money_has_a_column_of_floats(name):
    for column in metadata.tables[name].columns:
        assert not isinstance(column.type, Float | Double | Numeric), column


@pytest.mark.parametrize("amount", [0.1, "0.1", "1e3", "nan", "-1", "1/0", "٣", None, True, 10**3, "1 / 3"])
def test_a_plan_takes_only_exact_amounts(amount):
    charge = {"name": "seat", "price": {"kind": "flat", "amount": amount}}
    with pytest.raises(ValidationError):
        plan_from_dict({"name": "p", "currency": "USD", "charges": [charge]})


@pytest.mark.parametrize("field", ["included", "commitment"])
@pytest.mark.parametrize("value", [1.0, -1, "1", True, 2**53, None])
def test_a_plan_takes_only_whole_quantities(field, value):
    charge = {
        "name": "output",
        "meter": "output_tokens",
        "price": {"kind": "per_unit", "unit_price": "1"},
    }
    plan = {"name": "p", "currency": "USD", "charges": [charge]}
    (charge if field == "included" else plan)[field] = value
    with pytest.raises(ValidationError):
        plan_from_dict(plan)


@pytest.mark.parametrize("minor", [1.0, "1", True, None])
def test_money_is_whole(minor):
    with pytest.raises(ValidationError):
        Money(minor, "USD")
