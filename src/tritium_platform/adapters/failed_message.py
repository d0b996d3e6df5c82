"""How one process tells another, by MessagePack, that a request failed.

Apart from what an engine is told, so that a process without an engine need not import one.
"""

from __future__ import annotations

import msgspec

from tritium.errors import BitNetServiceError, Plain, ProcessingError, Recovery


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """One request failed; `error` is the class name in the tree of errors."""

    request_id: str
    error: str
    message: str
    recovery: str
    details: dict[str, Plain]

    @classmethod
    def of(cls, error: BitNetServiceError, *, request_id: str) -> Failed:
        """Write an error down for the other side."""
        return cls(request_id, type(error).__name__, error.message, error.recovery.value, dict(error.details))

    def to_error(self) -> BitNetServiceError:
        """Return the error that was written down; a class that is unknown here becomes ProcessingError."""
        kind = _subclasses(BitNetServiceError).get(self.error, ProcessingError)
        error = kind.__new__(kind)
        # Some classes build their message from arguments of their own; the message is complete here already.
        BitNetServiceError.__init__(error, self.message, recovery=Recovery(self.recovery), **self.details)
        return error


def _subclasses(root: type[BitNetServiceError]) -> dict[str, type[BitNetServiceError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _subclasses(child)
    return found
