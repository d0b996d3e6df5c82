"""What a request's road cost beside the engine, told in headers of its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.passage import Passage


def overhead_headers(passages: Sequence[Passage[Any]], *, seconds: float) -> dict[str, str]:
    """Return how long the engine was waited for, and the rest, in milliseconds; together they are the whole.

    Args:
        passages: the texts of one request; they run side by side, so that the engine's time is from the
            beginning of the first to the last piece that any of them has given so far.
        seconds: from the arrival of the request until now, when the head of its answer goes out.
    """
    spans = [passage.engine_span for passage in passages if passage.engine_span is not None]
    if not spans:
        return {}
    engine = min(seconds, max(end for _, end in spans) - min(start for start, _ in spans))
    return {
        "x-tritium-engine-ms": f"{engine * 1000:.3f}",
        "x-tritium-overhead-ms": f"{(seconds - engine) * 1000:.3f}",
    }
