"""What fails for one customer while the others are served: counted and logged, and reported at the end."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING

import structlog

from tritium_platform.errors import BitNetServiceError, PlatformError

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = structlog.get_logger(__name__)
OURS = Path(__file__).parents[1]


class Setbacks:
    """Keeps the failures of one customer from the others.

    Attributes:
        failed: how many attempts failed as was foreseen; the next run tries again.
        unforeseen: how many failed by an error that nobody foresaw.
    """

    def __init__(self) -> None:
        self.failed = 0
        self.unforeseen = 0

    @contextmanager
    def logged(self, event: str, **names: str) -> Iterator[None]:
        """Log under that name what fails inside; `names` say for whom."""
        try:
            yield
        except BitNetServiceError as error:
            _log.warning(event, code=error.code, **names)
            self.failed += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the others' fault
            # Its text can hold what nobody is to read (a statement with its values): kind and place do.
            _log.error(event, reason=type(error).__name__, place=_place(error), **names)
            self.unforeseen += 1

    def report(self, work: str) -> None:
        """Raise PlatformError if something failed that nobody foresaw: the run is not done."""
        if self.unforeseen:
            raise PlatformError(
                f"{work} met {self.unforeseen} errors that nobody foresaw; everybody else was served. "
                "The log names them and their places."
            )


def _place(error: Exception) -> str:
    """Return the innermost line of ours that an error went through."""
    passed = [(Path(frame.f_code.co_filename), line) for frame, line in walk_tb(error.__traceback__)]
    *_, (file, line) = (each for each in passed if OURS in each[0].parents)
    return f"{file.relative_to(OURS)}:{line}"
