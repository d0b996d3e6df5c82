"""Limits that follow what steps really take: in small changes, each with its reason, each of them undoable.

A limit is judged only by steps that come near it: their median is between `_LOOSE` and 1 times the latency
that is wanted, or the limit moves. It grows by so little that no cost that is linear, or grows slower, could
make the next steps too long, and falls by so little that they could not ask for growth: on a steady machine
it does not go to and fro. Where noise makes it turn all the same, it waits twice as long each time.
"""

from __future__ import annotations

import logging
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from tritium.engine.batch_size import rows_within
from tritium.engine.cost import StepCost, StepSums

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

TuningMode = Literal["off", "advise", "apply"]
TUNING_MODES: tuple[TuningMode, ...] = get_args(TuningMode)

_NEAR = 0.9  # of a limit: steps from here on show what it leads to
_ENOUGH = 32  # of such steps
_LOOSE = 0.75  # of the latency that is wanted: below, there is room to grow
_GOAL = 0.9  # of it, which growth must not be able to pass
_GROWTH, _FALL = 1.15, 0.87  # the most that one change does
_MOST_PATIENCE = 64  # times the steps that are waited for at first
_AGE = 0.8  # what older steps count for after each further `_ENOUGH` of them
_MOST_KEPT = 64  # adjustments that are remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """A change of a limit, made or advised.

    Attributes:
        limit: which one of `EngineConfig`.
        before: its value; `after` the one that measurements speak for.
        reason: the measurements, in words.
        at: `time.monotonic()` in seconds.
    """

    limit: str
    before: int
    after: int
    reason: str
    at: float
    is_applied: bool


def next_limit(current: int, *, seconds: float, wanted_seconds: float, fitting: int, most: int) -> int:
    """Return a limit's next value, from 1 to `most`; the same one where nothing speaks for another.

    Args:
        current: the limit that steps came near to.
        seconds: what those steps took, their median.
        wanted_seconds: what they should take at the most.
        fitting: the largest limit within that, by the cost that was learned.
        most: the largest one that is allowed.
    """
    if seconds > wanted_seconds:
        return max(1, min(current - 1, max(fitting, int(current * _FALL))))
    if seconds < _LOOSE * wanted_seconds:
        # In proportion, as if no part of a step were fixed: more is never slower than that.
        safe = int(current * _GOAL * wanted_seconds / seconds) if seconds > 0 else most
        grown = min(max(current + 1, int(current * _GROWTH)), safe, fitting, most)
        return max(current, grown)
    return current


@dataclass(slots=True)
class _Limit:
    """One limit, and what was measured near it since it was last decided."""

    name: str
    value: int
    most: int
    near: list[float] = field(default_factory=list)
    patience: int = 1
    direction: int = 0
    advised: int | None = None

    def record(self, used: int, seconds: float) -> None:
        if used >= _NEAR * self.value:
            self.near.append(seconds)

    def decide(self, *, wanted_seconds: float, fitting: int) -> tuple[int, float] | None:
        """Return the next value and the median it comes from; None while too little is known."""
        if len(self.near) < _ENOUGH * self.patience:
            return None
        seconds, self.near = statistics.median(self.near), []
        value = next_limit(
            self.value, seconds=seconds, wanted_seconds=wanted_seconds, fitting=fitting, most=self.most
        )
        return value, seconds

    def move(self, value: int) -> None:
        direction = 1 if value > self.value else -1
        if direction == -self.direction:
            self.patience = min(_MOST_PATIENCE, 2 * self.patience)
        self.direction, self.value = direction, value


class AdaptiveTuner:
    """Learns what steps cost, and moves two limits so that they keep to a latency.

    Args:
        mode: "off" learns only; "advise" says what it would do; "apply" does it.
        latency_seconds: the longest that a step should take; None: limits stay.
        max_running: the configured limit, which is never passed; likewise `max_batched_tokens`.
    """

    def __init__(
        self,
        *,
        mode: TuningMode,
        latency_seconds: float | None,
        max_running: int,
        max_batched_tokens: int,
    ) -> None:
        self.mode = mode
        self.adjustments: list[Adjustment] = []
        self._latency_seconds = latency_seconds
        self._running = _Limit("max_running", max_running, max_running)
        self._tokens = _Limit("max_batched_tokens", max_batched_tokens, max_batched_tokens)
        self._sums = StepSums()
        self._steps_since_aged = 0

    @property
    def max_running(self) -> int:
        """How many sequences may share a step."""
        return self._running.value

    @property
    def max_batched_tokens(self) -> int:
        """How many tokens a step may have."""
        return self._tokens.value

    @property
    def cost(self) -> StepCost:
        """What steps cost, the latest counting most."""
        return self._sums.fit()

    def record(self, *, rows: int, prompt_tokens: int, seconds: float, now: float) -> None:
        """Learn from a step of so many sequences that write and tokens of prompts."""
        self._sums.add(rows=rows, prompt_tokens=prompt_tokens, seconds=seconds)
        self._steps_since_aged += 1
        if self._steps_since_aged == _ENOUGH:
            self._sums.age(_AGE)
            self._steps_since_aged = 0
        if self._latency_seconds is None or self.mode == "off":
            return
        if prompt_tokens:
            self._tokens.record(rows + prompt_tokens, seconds)
            self._decide(self._tokens, self._tokens_fitting, self._latency_seconds, now)
        else:
            self._running.record(rows, seconds)
            self._decide(self._running, self._rows_fitting, self._latency_seconds, now)

    def undo(self) -> Adjustment | None:
        """Take back the last change that was made, and only advise from now on; None if there is none."""
        self.mode = "advise" if self.mode == "apply" else self.mode
        made = [each for each in self.adjustments if each.is_applied]
        if not made:
            return None
        last = made[-1]
        self.adjustments.remove(last)
        limit = self._running if last.limit == self._running.name else self._tokens
        limit.value, limit.near = last.before, []
        logger.warning("tuning undone: %s is %d again (was %d)", last.limit, last.before, last.after)
        return last

    def _rows_fitting(self, seconds: float, most: int) -> int:
        return rows_within(seconds, cost=self.cost, most=most)

    def _tokens_fitting(self, seconds: float, most: int) -> int:
        cost = self.cost
        dearest = StepCost(fixed=cost.fixed, per_row=max(cost.per_row, cost.per_prompt_token))
        return rows_within(seconds, cost=dearest, most=most)

    def _decide(
        self, limit: _Limit, fitting: Callable[[float, int], int], wanted_seconds: float, now: float
    ) -> None:
        if len(limit.near) < _ENOUGH * limit.patience:
            return  # the cost need not be worked out for every step
        decided = limit.decide(wanted_seconds=wanted_seconds, fitting=fitting(wanted_seconds, limit.most))
        if decided is None or decided[0] == limit.value:
            limit.advised = None
            return
        value, seconds = decided
        is_applied = self.mode == "apply"
        if not is_applied and value == limit.advised:
            return  # said already
        self._note(limit, value, seconds=seconds, wanted_seconds=wanted_seconds, now=now)
        if is_applied:
            limit.move(value)
        else:
            limit.advised = value

    def _note(self, limit: _Limit, value: int, *, seconds: float, wanted_seconds: float, now: float) -> None:
        reason = (
            f"steps near {limit.name} {limit.value} take {1000 * seconds:.1f} ms (median), "
            f"{1000 * wanted_seconds:.1f} ms are wanted"
        )
        adjustment = Adjustment(
            limit=limit.name,
            before=limit.value,
            after=value,
            reason=reason,
            at=now,
            is_applied=self.mode == "apply",
        )
        self.adjustments = [*self.adjustments[1 - _MOST_KEPT :], adjustment]
        what = "tuned" if adjustment.is_applied else "advice"
        logger.info("%s: %s %d -> %d: %s", what, limit.name, limit.value, value, reason)
