"""The program `tritium`: quantize, run, chat, embed, eval, show, bench, env, serve.

A command imports what it needs when it runs, so that `tritium --help` answers at once.
"""

from __future__ import annotations

import sys

from tritium.cli.app import app
from tritium.cli.failure import exit_code, report
from tritium.errors import BitNetServiceError


def main() -> None:
    """Run the program; errors become one clear message on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character must not end the program
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except BitNetServiceError as error:
        report(error.message, arguments=sys.argv[1:], error=error)
        sys.exit(exit_code(error))
    except OSError as error:
        report(f"{error.strerror or error} ({error.filename or 'no file'})", arguments=sys.argv[1:])
        sys.exit(1)
    except MemoryError:
        report("There is not enough memory for this. Choose a smaller model.", arguments=sys.argv[1:])
        sys.exit(4)
