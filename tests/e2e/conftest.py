"""Platforms that run, for the tests of this folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parents[1] / "integration" / "harness.py"


def load_harness():
    """Load the harness once, by its path."""
    if "tritium_test_harness" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tritium_test_harness", HARNESS)
        module = importlib.util.module_from_spec(spec)
        sys.modules["tritium_test_harness"] = module
        spec.loader.exec_module(module)
    return sys.modules["tritium_test_harness"]


@pytest.fixture(scope="session")
def harness():
    """What starts platforms and asks them."""
    return load_harness()


@pytest.fixture(scope="module")
def running(tmp_path_factory, harness):
    """A platform on SQLite that the tests of one file share."""
    platform, stop = harness.serve(harness.platform_config(tmp_path_factory.mktemp("platform")))
    yield platform
    stop()
