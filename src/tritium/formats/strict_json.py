"""JSON of unknown origin, read strictly: one object, no duplicate keys, no NaN, bounded in size and depth."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from tritium.formats.refusal import quoted, refusal

if TYPE_CHECKING:
    from pathlib import Path

# The index of a model of a hundred thousand tensors takes about 10 MiB.
LARGEST_JSON = 16 * 1024 * 1024


def parse_json_object(data: bytes, *, file: str | Path) -> dict[str, Any]:
    """Parse UTF-8 bytes as one JSON object.

    Raises:
        ValidationError: too large, not UTF-8, not JSON, nested too deeply, a key twice, NaN or Infinity,
            half a surrogate pair, or anything but an object at the top.
    """
    if len(data) > LARGEST_JSON:
        raise refusal(f"{len(data)} bytes of JSON are more than the limit of {LARGEST_JSON}", file=file)
    try:
        parsed = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_float=_finite_float,
        )
        if b"\\u" in data:  # only an escape can smuggle in half a surrogate pair
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise refusal("the text is not valid UTF-8", file=file) from error
    except RecursionError as error:
        raise refusal("the JSON is nested too deeply", file=file) from error
    except ValueError as error:  # json.JSONDecodeError, our own hooks, an integer of too many digits
        raise refusal(f"not valid JSON: {error}", file=file) from error
    if not isinstance(parsed, dict):
        raise refusal(f"a JSON object is needed, not a {type(parsed).__name__}", file=file)
    return parsed


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {quoted(key)} appears twice")
            seen.add(key)
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {quoted(text)} is out of range")
    return value
