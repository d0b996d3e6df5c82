"""The program `tritiumd`: processes, configuration, tenants, models, deployments, usage, invoices, audit.

A command imports what it needs when it runs, so that `tritiumd --help` answers at once.
"""

from __future__ import annotations

from tritium.cli.failure import run_program
from tritium_platform.cli.app import app


def main() -> None:
    """Run the program."""
    run_program(app)
