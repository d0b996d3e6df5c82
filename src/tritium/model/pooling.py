"""How a sentence encoder makes one vector of many: only the mean is known, the rest is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.errors import ValidationError
from tritium.formats.strict_json import LARGEST_JSON, parse_json_object
from tritium.formats.weight_file import read_small_file

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
    values = parse_json_object(read_small_file(path, limit=LARGEST_JSON), file=POOLING_FILE)
    modes = {name for name, value in values.items() if name.startswith("pooling_mode_") and value is True}
    named = values.get("pooling_mode")
    if isinstance(named, str) and named != "mean":
        raise ValidationError(f"Pooling {named!r} is not known; known is 'mean'.", file=POOLING_FILE)
    others = sorted(modes - {_MEAN})
    if others or (not modes and named is None):
        shown = ", ".join(name.removeprefix("pooling_mode_") for name in others) or "none"
        raise ValidationError(f"Pooling {shown!r} is not known; known is 'mean_tokens'.", file=POOLING_FILE)
