"""Loads the double and the tills by their paths: test folders are not packages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

for name in ("bank", "double", "till", "schedule"):
    known = f"tritium_payments_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, HERE / f"{name}.py")
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])

from tritium_payments_till import open_till  # noqa: E402 - loaded above


@pytest.fixture
def till():
    """Services of payments in memory, with Stripe's SDK pointed at a double."""
    with open_till() as made:
        yield made
