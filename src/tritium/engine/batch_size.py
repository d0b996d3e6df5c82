"""How many sequences may share the engine: what memory holds, and what the latency allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritium.errors import InsufficientMemoryError, ValidationError

if TYPE_CHECKING:
    from tritium.engine.cost import StepCost


def optimal_batch_size(
    *, free_bytes: int, sequence_bytes: int, latency_seconds: float | None, cost: StepCost, most: int
) -> int:
    """Return the most sequences that fit into memory and whose step keeps to the latency; at least 1.

    One sequence is let run even if its step alone takes too long: waiting would not make it faster.

    Args:
        free_bytes: memory that may be used.
        sequence_bytes: what a sequence takes: the key-value bytes of a token by the tokens it is expected to
            come to, at least 1.
        latency_seconds: the longest step; None for no limit.
        cost: what a step takes, measured.
        most: never more than so many.

    Raises:
        InsufficientMemoryError: not even one fits; details: required, available (bytes).
        ValidationError: a number that makes no sense.
    """
    if sequence_bytes < 1 or most < 1:
        raise ValidationError("A sequence takes at least one byte, and at least one may run.")
    fitting = free_bytes // sequence_bytes
    if fitting < 1:
        raise InsufficientMemoryError(
            f"A sequence needs {sequence_bytes:,} bytes of memory and {max(0, free_bytes):,} are left: "
            "lower kv_cache_bytes or max_context, or free memory.",
            required=sequence_bytes,
            available=max(0, free_bytes),
        )
    return min(most, fitting, rows_within(latency_seconds, cost=cost, most=most))


def rows_within(latency_seconds: float | None, *, cost: StepCost, most: int) -> int:
    """Return the most rows, from 1 to `most`, whose step keeps to the latency; 1 if none does."""
    if latency_seconds is None or cost.seconds(rows=most) <= latency_seconds:
        return most
    low, high = 1, most  # a step of `high` is too long; seconds never fall with rows
    while high - low > 1:
        middle = (low + high) // 2
        if cost.seconds(rows=middle) <= latency_seconds:
            low = middle
        else:
            high = middle
    return low
