"""How many engines a forecast calls for. It only ever adds: what is not foreseen may come all the same."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# An engine that is busy all the time makes everybody wait.
BUSY_PART = 0.8


def replicas_wanted(high: Sequence[float], *, tokens_per_replica: float, current: int, most: int) -> int:
    """Return the engines that the highest hour of a forecast needs; never fewer than there are.

    Args:
        high: tokens of each hour ahead that nine of ten stay below.
        tokens_per_replica: tokens that one engine was measured to do in an hour of work; 0: not measured.
        current: engines there are.
        most: engines there may be.
    """
    if tokens_per_replica <= 0 or not high:
        return current
    needed = math.ceil(min(max(high) / (BUSY_PART * tokens_per_replica), most))
    return max(current, needed)
