"""Errors as a user of the program meets them: one message, one exit code."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from tritium.errors import BitNetServiceError, ErrorCategory, MissingExtraError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BAD_INPUT = 2
MISSING_EXTRA = 3
NO_RESOURCES = 4
TRY_AGAIN = 5
OTHER = 1
BY_CATEGORY: Final[Mapping[ErrorCategory, int]] = {
    ErrorCategory.RESOURCE_EXHAUSTED: NO_RESOURCES,
    ErrorCategory.RATE_LIMITED: TRY_AGAIN,
    ErrorCategory.TRANSIENT: TRY_AGAIN,
}


def exit_code(error: BitNetServiceError) -> int:
    """Return 2 for bad input, 3 for a missing extra, 4 for memory or disk, 5 for "later", 1 for the rest."""
    if isinstance(error, ValidationError):
        return BAD_INPUT
    if isinstance(error, MissingExtraError):
        return MISSING_EXTRA
    return BY_CATEGORY.get(error.category, OTHER)


def report(message: str, *, arguments: Sequence[str], error: BitNetServiceError | None = None) -> None:
    """Write an error to stderr: as a line, or as one JSON object where `--format json` was asked for."""
    if error is not None and _wants_json(arguments):
        import json  # noqa: PLC0415 - needed only here; --help stays fast

        content = {"code": error.code, "message": error.message, "recovery": error.recovery, **error.details}
        sys.stderr.write(json.dumps({"error": content}) + "\n")
    else:
        sys.stderr.write(f"Error: {message}\n")


def run_program(program: Callable[[], object]) -> None:
    """Run a program of commands; errors become one clear message on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character must not end the program
            stream.reconfigure(errors="backslashreplace")
    try:
        program()
    except BitNetServiceError as error:
        report(error.message, arguments=sys.argv[1:], error=error)
        sys.exit(exit_code(error))
    except OSError as error:
        report(f"{error.strerror or error} ({error.filename or 'no file'})", arguments=sys.argv[1:])
        sys.exit(OTHER)
    except MemoryError:
        report("There is not enough memory for this. Choose a smaller model.", arguments=sys.argv[1:])
        sys.exit(NO_RESOURCES)


def _wants_json(arguments: Sequence[str]) -> bool:
    return "--format=json" in arguments or ("--format", "json") in pairwise(arguments)
