"""Text from standard input, with a word to a human who is waited for."""

from __future__ import annotations

import sys

from tritium.cli.output import write_note
from tritium.errors import ValidationError


def read_standard_input(what: str) -> str:
    """Return all of standard input.

    Raises:
        ValidationError: it is not UTF-8, or empty.
    """
    if sys.stdin.isatty():
        write_note(f"(type {what}, then Ctrl-D)")
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValidationError("Standard input is not valid UTF-8 text.") from error
    if not text:
        raise ValidationError(f"Nothing came on standard input: give {what} as an argument or pipe it in.")
    return text.removesuffix("\n")  # the end of a line is the shell's, not the text's
