"""How a sentence encoder makes one vector of many: only the mean is known, the rest is refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tritium.errors import ValidationError

if TYPE_CHECKING:
    from pathlib import Path

POOLING_FILE = "1_Pooling/config.json"
_MEAN = "pooling_mode_mean_tokens"


def require_mean_pooling(path: Path | None) -> None:
    """Check that a checkpoint asks for the mean of all token vectors; without the file that is the default.

    Raises:
        ValidationError: another pooling, by name.
    """
    if path is None:
        return
    values = _read(path)
    modes = {name for name, value in values.items() if name.startswith("pooling_mode_") and value is True}
    named = values.get("pooling_mode")
    if isinstance(named, str) and named != "mean":
        raise ValidationError(f"Pooling {named!r} is not known; known is 'mean'.", file=POOLING_FILE)
    others = sorted(modes - {_MEAN})
    if others or (not modes and named is None):
        shown = ", ".join(name.removeprefix("pooling_mode_") for name in others) or "none"
        raise ValidationError(f"Pooling {shown!r} is not known; known is 'mean_tokens'.", file=POOLING_FILE)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ValidationError(f"{POOLING_FILE} is not valid JSON.", file=POOLING_FILE) from None
    if not isinstance(content, dict):
        raise ValidationError(f"{POOLING_FILE} must hold an object.", file=POOLING_FILE)
    return content
