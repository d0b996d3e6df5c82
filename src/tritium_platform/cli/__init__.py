"""The program `tritiumd`: processes, configuration, tenants, models, deployments, usage, invoices, audit.

A command imports what it needs when it runs, so that `tritiumd --help` answers at once.
"""

from __future__ import annotations

import sys

from tritium.cli.failure import exit_code, report
from tritium.errors import BitNetServiceError
from tritium_platform.cli.app import app


def main() -> None:
    """Run the program; errors become one clear message on stderr and an exit code."""
    try:
        app()
    except BitNetServiceError as error:
        report(error.message, arguments=sys.argv[1:], error=error)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
