"""How a sentence encoder makes one vector of many: the mean or the last; the rest is refused by name."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from tritium.errors import ValidationError
from tritium.formats.strict_json import LARGEST_JSON, parse_json_object
from tritium.formats.weight_file import read_small_file

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

POOLING_FILE = "1_Pooling/config.json"
_MODE = "pooling_mode_"
_SMALLEST_LENGTH = np.float32(1e-12)


class Pooling(StrEnum):
    """Which of a text's hidden states become its vector, as sentence-transformers calls it."""

    MEAN = "mean_tokens"
    LAST = "lasttoken"

    def vector(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Make one unit vector [hidden] of the hidden states [T, hidden] of a text."""
        pooled = hidden.mean(axis=0, dtype=np.float32) if self is Pooling.MEAN else hidden[-1]
        length = np.sqrt(np.square(pooled).sum(dtype=np.float32))
        unit: npt.NDArray[np.float32] = pooled / np.maximum(length, _SMALLEST_LENGTH)
        return unit


def read_pooling(path: Path | None, *, known: tuple[Pooling, ...], default: Pooling | None) -> Pooling:
    """Read which pooling a checkpoint asks for.

    Args:
        path: of its pooling file; None if it has none.
        known: what the model can do.
        default: what a checkpoint without the file means; None: it has to say.

    Raises:
        ValidationError: another pooling, by name, or none where one has to be named.
    """
    if path is None:
        if default is None:
            raise ValidationError(
                f"The checkpoint does not say how its vectors are pooled: copy {POOLING_FILE} from where the "
                "model comes from into its directory.",
                file=POOLING_FILE,
            )
        return default
    values = parse_json_object(read_small_file(path, limit=LARGEST_JSON), file=POOLING_FILE)
    modes = {
        name.removeprefix(_MODE) for name, value in values.items() if name.startswith(_MODE) and value is True
    }
    named = values.get("pooling_mode")
    if isinstance(named, str):
        modes.add("mean_tokens" if named == "mean" else named)
    if len(modes) == 1 and next(iter(modes)) in known:
        return Pooling(next(iter(modes)))
    shown = ", ".join(sorted(modes - {known[0]})) or "none"
    raise ValidationError(
        f"Pooling {shown!r} is not known; known is {' or '.join(repr(each.value) for each in known)}.",
        file=POOLING_FILE,
    )
