"""What several rooms are tested with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bean_check():
    """The program; `make test` installs it beside the repository."""
    beside = ROOT / ".venv-beancount" / "bin" / "bean-check"
    found = os.environ.get("TRITIUM_BEAN_CHECK") or (
        str(beside) if beside.is_file() else shutil.which("bean-check")
    )
    if found is None:
        pytest.skip("bean-check is not installed: make .stamps/beancount")
    return found
