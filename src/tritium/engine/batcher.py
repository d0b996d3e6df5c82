"""One-shot work (embeddings): a batch starts when it is full, or when its oldest input has waited enough."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tritium.engine.batch import apportion
from tritium.engine.request import ContextLengthExceededError, EmbeddingOutput, QueueFullError
from tritium.errors import BitNetServiceError, PlatformError, ProcessingError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherConfig:
    """Limits of the batches.

    Attributes:
        max_batch_inputs: a batch of so many inputs starts at once.
        max_batch_tokens: or of so many tokens.
        max_delay_seconds: the longest an input waits for company.
        max_waiting_inputs: one more is refused.
        max_input_tokens: the longest input the model takes.
    """

    max_input_tokens: int
    max_batch_inputs: int = 32
    max_batch_tokens: int = 4096
    max_delay_seconds: float = 0.002
    max_waiting_inputs: int = 8192


@dataclass(slots=True, eq=False)
class _Job:
    """One embedding request: its inputs may be spread over several batches."""

    future: Future[EmbeddingOutput]
    arrival: float
    num_tokens: int
    vectors: list[tuple[float, ...] | None]
    compute_nanoseconds: int = 0
    first_batch_at: float | None = None


@dataclass(slots=True)
class _Item:
    job: _Job
    index: int
    token_ids: Sequence[int] = field(repr=False)


class EmbeddingBatcher:
    """Collects inputs of many requests into batches; any thread may add inputs, one thread runs them.

    Args:
        encode: turns token id lists into unit-length rows f32[B, H]; a row must not depend on its neighbours.
    """

    def __init__(
        self, encode: Callable[[list[Sequence[int]]], NDArray[np.float32]], *, config: BatcherConfig
    ) -> None:
        self.config = config
        self._encode = encode
        self._lock = threading.Lock()
        self._waiting: deque[_Item] = deque()
        self._waiting_tokens = 0
        self._is_running = False

    @property
    def has_work(self) -> bool:
        """Whether inputs wait or run."""
        with self._lock:
            return bool(self._waiting) or self._is_running

    def add(self, inputs: Sequence[Sequence[int]]) -> Future[EmbeddingOutput]:
        """Queue the inputs of one request; cancelling the future drops those that have not run.

        Raises:
            ValidationError: no input, or an empty one.
            ContextLengthExceededError: an input is too long.
            QueueFullError: too many inputs wait already.
        """
        self.validate(inputs)
        job = _Job(Future(), time.monotonic(), sum(map(len, inputs)), [None] * len(inputs))
        with self._lock:
            if len(self._waiting) + len(inputs) > self.config.max_waiting_inputs:
                raise QueueFullError(
                    "Too many inputs are waiting: try again soon, or send fewer at once.",
                    limit=self.config.max_waiting_inputs,
                    current=len(self._waiting),
                    retry_after=1,
                )
            self._waiting.extend(_Item(job, index, token_ids) for index, token_ids in enumerate(inputs))
            self._waiting_tokens += job.num_tokens
        return job.future

    def seconds_until_due(self) -> float | None:
        """Return how long the next batch may still wait: 0 = start it now, None = nothing waits."""
        with self._lock:
            if not self._waiting:
                return None
            if len(self._waiting) >= self.config.max_batch_inputs:
                return 0.0
            if self._waiting_tokens >= self.config.max_batch_tokens:
                return 0.0
            waited = time.monotonic() - self._waiting[0].job.arrival
            return max(0.0, self.config.max_delay_seconds - waited)

    def run_due(self) -> None:
        """Run one batch if one is due."""
        delay = self.seconds_until_due()
        if delay is not None and delay <= 0:
            self.run_batch()

    def run_batch(self) -> None:
        """Run one batch of what waits, full or not."""
        batch = self._take_batch()
        try:
            if batch:
                self._run(batch)
        finally:
            self._is_running = False

    def close(self) -> None:
        """Fail what still waits."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
            self._waiting_tokens = 0
        for item in waiting:
            _fail(item.job, PlatformError("The engine was shut down.", retry_after=5))

    def validate(self, inputs: Sequence[Sequence[int]]) -> None:
        """Check that the inputs can run here at all; may be called from any thread.

        Raises:
            ValidationError: no input, or an empty one.
            ContextLengthExceededError: an input is too long.
        """
        if not inputs or not all(inputs):
            raise ValidationError("An input is empty: every input needs at least one token.", param="input")
        longest = max(map(len, inputs))
        limit = self.config.max_input_tokens
        if longest > limit:
            raise ContextLengthExceededError(
                f"An input has {longest} tokens; the model takes at most {limit}: shorten it.",
                param="input",
                limit=limit,
                prompt_tokens=longest,
            )

    def _take_batch(self) -> list[_Item]:
        batch: list[_Item] = []
        tokens = 0
        with self._lock:
            while self._waiting and len(batch) < self.config.max_batch_inputs:
                item = self._waiting[0]
                if batch and tokens + len(item.token_ids) > self.config.max_batch_tokens:
                    break
                self._waiting.popleft()
                self._waiting_tokens -= len(item.token_ids)
                if not item.job.future.done():
                    batch.append(item)
                    tokens += len(item.token_ids)
            self._is_running = True
        return batch

    def _run(self, batch: list[_Item]) -> None:
        started = time.monotonic_ns()
        for item in batch:
            item.job.first_batch_at = item.job.first_batch_at or started / 1e9
        vectors = self._encode_apart_on_error(batch)
        elapsed = time.monotonic_ns() - started
        shares = apportion(elapsed, shares=[len(item.token_ids) for item in batch])
        for item, vector, share in zip(batch, vectors, shares, strict=True):
            item.job.compute_nanoseconds += share
            if vector is not None:
                item.job.vectors[item.index] = vector
                _finish_if_complete(item.job)

    def _encode_apart_on_error(self, batch: list[_Item]) -> list[tuple[float, ...] | None]:
        """Encode a batch; if it fails, its inputs one by one, so that only the bad one's request fails."""
        try:
            rows = self._encode([item.token_ids for item in batch])
        except Exception as error:
            if len(batch) > 1:
                return [vector for item in batch for vector in self._encode_apart_on_error([item])]
            logger.exception("an input failed in the model")
            _fail(batch[0].job, error)
            return [None]
        return [tuple(row) for row in rows.tolist()]


def _fail(job: _Job, error: Exception) -> None:
    if not isinstance(error, BitNetServiceError):
        error = ProcessingError("The model failed on an input.")
    if not job.future.done() and job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)


def _finish_if_complete(job: _Job) -> None:
    vectors = [vector for vector in job.vectors if vector is not None]
    if len(vectors) == len(job.vectors) and job.future.set_running_or_notify_cancel():
        job.future.set_result(
            EmbeddingOutput(
                vectors=tuple(vectors),
                prompt_tokens=job.num_tokens,
                compute_seconds=job.compute_nanoseconds / 1e9,
                queue_seconds=max(0.0, (job.first_batch_at or job.arrival) - job.arrival),
            )
        )
