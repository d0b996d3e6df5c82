"""Analyses one trace and writes the analysis as JSON: a process of low priority that ends by itself."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import msgspec

from tritium.engine.analysis import analyse
from tritium.engine.trace import read_trace
from tritium.errors import BitNetServiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NICENESS = 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Analyse the file that is named; exit code 1 and a line on stderr if that cannot be done."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    try:
        found = analyse(read_trace(path))
    except BitNetServiceError as error:
        sys.exit(error.message)
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
