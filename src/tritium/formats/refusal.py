"""How this room says that a file is wrong: which file, which tensor, why."""

from __future__ import annotations

from pathlib import Path

from tritium.errors import ValidationError

LONGEST_NAME_SHOWN = 200


def quoted(text: object) -> str:
    """Return untrusted text fit for a message: escaped and cut to a readable length."""
    shown = text if isinstance(text, str) else str(text)
    return repr(shown if len(shown) <= LONGEST_NAME_SHOWN else shown[:LONGEST_NAME_SHOWN] + "...")


def refusal(reason: str, *, file: str | Path, tensor: str | None = None) -> ValidationError:
    """Return the ValidationError that names file, tensor and reason; only a path's name is shown."""
    # "." and "/" have no name of their own; then the path is all there is to show.
    name = (file.name or str(file)) if isinstance(file, Path) else file
    where = name if tensor is None else f"{name}: tensor {quoted(tensor)}"
    message = f"{where}: {reason}"
    if tensor is None:
        return ValidationError(message, file=name, reason=reason)
    return ValidationError(message, file=name, reason=reason, tensor=tensor)
