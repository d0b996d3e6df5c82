"""Writes the trace of a running engine; whatever goes wrong with the file, the engine goes on."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from tritium.engine.cost import StepSums
from tritium.engine.processor import ProcessorReading, read_processor
from tritium.engine.trace import TracedEngine, TracedInterval, TracedRequest, line_of
from tritium.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritium.engine.request import TokenOutput
    from tritium.engine.sequence import Sequence

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
MOST_BYTES = 2**28  # of a file: a week of an engine that is never idle
_FULL = 0.95
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """What is recorded of a step; counters are those since the engine began."""

    started: float
    seconds: float
    rows: int
    prompt_tokens: int
    running: int
    waiting: int
    kv_used: float
    preemptions: int
    refused: int
    pressure: float


@dataclass(slots=True)
class Deliveries:
    """How outputs reach those who send them; the senders' thread counts, the engine's reads and resets."""

    count: int = 0
    seconds: float = 0.0
    unread: int = 0

    def record(self, *, seconds: float, unread: int) -> None:
        """Count the outputs of a step, and the most that wait of one request."""
        self.count += 1
        self.seconds += seconds
        self.unread = max(self.unread, unread)

    def take(self) -> tuple[float, int]:
        """Return the mean time and the most that waited since the last call."""
        count, seconds, unread = self.count, self.seconds, self.unread
        self.count, self.seconds, self.unread = 0, 0.0, 0
        return seconds / count if count else 0.0, unread


@dataclass(slots=True)
class _Span:
    """The sums of the interval under way."""

    began: float
    processor: ProcessorReading
    preemptions: int = 0
    refused: int = 0
    busy: float = 0.0
    steps: int = 0
    sums: StepSums = field(default_factory=StepSums)
    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    kv_full: int = 0
    prompt_tokens: int = 0
    rows: int = 0


class TraceRecorder:
    """Records requests and steps; only the engine's thread calls it.

    Args:
        path: the file; what was there is overwritten. Only its owner may read it.
        clock: seconds, the same that requests' arrivals are counted in.

    Raises:
        ValidationError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        read: Callable[[], ProcessorReading] = read_processor,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise ValidationError(f"The trace {path} cannot be written: {error.strerror}.") from error
        self.deliveries = Deliveries()
        self._file: IO[str] | None = os.fdopen(descriptor, "w", encoding="utf-8")
        self._path = path
        self._read = read
        self._left = most_bytes
        self._began = clock()
        self._salt = secrets.token_bytes(32)
        self._span = _Span(began=self._began, processor=read())
        self._last: StepFigures | None = None  # a step that the next one follows at once

    def begin(self, engine: TracedEngine) -> None:
        """Write down which engine it is."""
        self._write(line_of(engine))

    def ended(self, sequence: Sequence, output: TokenOutput, *, now: float) -> None:
        """Write a request down that has ended, in whatever way."""
        request, first = sequence.request, sequence.first_token_at
        traced = TracedRequest(
            arrival=request.arrival - self._began,
            prompt=output.prompt_tokens,
            output=output.completion_tokens,
            cached=output.cached_tokens,
            tenant=self._digest(request.tenant),
            weight=request.weight,
            priority=request.priority,
            queue_seconds=output.queue_seconds,
            first_seconds=None if first is None else first - request.arrival,
            end_seconds=now - request.arrival,
            finish=str(output.finish_reason),
        )
        self._write(line_of(traced))

    def step(self, figures: StepFigures, *, has_work: bool) -> None:
        """Take a step into account; `has_work` says whether the next one follows at once.

        An interval ends after a second, and when there is nothing more to do.
        """
        if self._last is not None:  # what lies between two steps belongs to the first of them
            gap = figures.started - (self._last.started + self._last.seconds)
            self._count(self._last, seconds=self._last.seconds + max(0.0, gap))
        self._last = figures if has_work else None
        if not has_work:
            self._count(figures, seconds=figures.seconds)
        now = figures.started + figures.seconds
        if not has_work or now - self._span.began >= INTERVAL_SECONDS:
            self._end_span(figures, now)

    def close(self) -> None:
        """Write down what is left; harmless when repeated."""
        if self._file is None:
            return
        if self._last is not None:
            last, self._last = self._last, None
            self._count(last, seconds=last.seconds)
            self._end_span(last, last.started + last.seconds)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _count(self, figures: StepFigures, *, seconds: float) -> None:
        span = self._span
        span.busy += seconds
        span.steps += 1
        span.sums.add(rows=figures.rows, prompt_tokens=figures.prompt_tokens, seconds=seconds)
        span.running += figures.running
        span.waiting += figures.waiting
        span.kv_used += figures.kv_used
        span.kv_full += figures.kv_used > _FULL
        span.prompt_tokens += figures.prompt_tokens
        span.rows += figures.rows

    def _end_span(self, figures: StepFigures, now: float) -> None:
        span, reading = self._span, self._read()
        self._span = _Span(
            began=now, processor=reading, preemptions=figures.preemptions, refused=figures.refused
        )
        if not span.steps:
            return
        before, (delivery, unread) = span.processor, self.deliveries.take()
        ticks = reading.ticks - before.ticks
        interval = TracedInterval(
            at=now - self._began,
            seconds=now - span.began,
            busy_seconds=span.busy,
            steps=span.steps,
            sums=span.sums,
            running=span.running / span.steps,
            waiting=span.waiting / span.steps,
            kv_used=span.kv_used / span.steps,
            kv_full=span.kv_full / span.steps,
            prompt_tokens=span.prompt_tokens,
            rows=span.rows,
            preemptions=figures.preemptions - span.preemptions,
            refused=figures.refused - span.refused,
            process_seconds=reading.process_seconds - before.process_seconds,
            stolen=(reading.stolen_ticks - before.stolen_ticks) / ticks if ticks > 0 else 0.0,
            throttled_seconds=max(0.0, reading.throttled_seconds - before.throttled_seconds),
            delivery_seconds=delivery,
            unread=unread,
            pressure=figures.pressure,
        )
        self._write(line_of(interval))

    def _digest(self, tenant: str) -> str:
        digest = hashlib.blake2b(tenant.encode(), key=self._salt, digest_size=_DIGEST_BYTES)
        return digest.hexdigest()

    def _write(self, line: str) -> None:
        if self._file is None:
            return
        self._left -= len(line)
        try:
            if self._left >= 0:
                self._file.write(line)
                self._file.flush()
                return
            logger.warning("the trace %s is full and goes no further", self._path)
        except OSError as error:
            logger.warning("the trace %s cannot be written any more: %s", self._path, error.strerror)
        file, self._file = self._file, None
        with contextlib.suppress(OSError):  # what is in its buffer cannot be written either
            file.close()
