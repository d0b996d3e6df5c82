"""One-shot work (embeddings): a batch starts when it is full, or when the oldest input has waited enough.

Who is in it, the policy says: inputs take turns as texts do in the scheduler.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tritium.engine.batch import apportion
from tritium.engine.fair_share import FairShare
from tritium.engine.request import (
    MAX_WEIGHT,
    ContextLengthExceededError,
    EmbeddingOutput,
    QueueFullError,
    whole_number_between,
)
from tritium.errors import BitNetServiceError, PlatformError, ProcessingError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tritium.engine.turns import SchedulingPolicy


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherConfig:
    """Limits of the batches.

    Attributes:
        max_batch_inputs: a batch of so many inputs starts at once.
        max_batch_tokens: or of so many tokens.
        max_delay_seconds: the longest an input waits for company.
        max_waiting_inputs: one more is refused; a tenant that has a name and waits already may hold at most
            as many as it leaves free.
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


@dataclass(slots=True, eq=False)
class _Item:
    """One input: what takes turns."""

    job: _Job
    index: int
    token_ids: Sequence[int] = field(repr=False)
    serial: int
    tenant: str
    weight: int
    arrival: float
    priority: int = 0
    is_waiting: bool = True

    @property
    def num_due(self) -> int:
        return len(self.token_ids)


class EmbeddingBatcher:
    """Collects inputs of many requests into batches; any thread may add inputs, one thread runs them.

    While all that waits fits into a batch, no input waits longer than the delay and the batch that runs.
    While it does not, batches follow one another, and the policy fills them: by fair shares no tenant has
    more than its part while another waits (docs/decisions/0012-fair-turns.md).

    Args:
        encode: turns token id lists into unit-length rows f32[B, H]; a row must not depend on its neighbours.
        policy: whose inputs come first when not all fit; None for fair shares of tenants.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        encode: Callable[[list[Sequence[int]]], NDArray[np.float32]],
        *,
        config: BatcherConfig,
        policy: SchedulingPolicy[_Item] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._clock = clock
        self._encode = encode
        self._lock = threading.Lock()
        self._policy: SchedulingPolicy[_Item] = FairShare() if policy is None else policy
        self._arrived: deque[_Item] = deque()  # oldest first; those that had their turn leave from the front
        self._waiting: Counter[str] = Counter()  # inputs by tenant
        self._waiting_tokens = 0
        self._serial = 0
        self._is_running = False

    @property
    def has_work(self) -> bool:
        """Whether inputs wait or run."""
        with self._lock:
            return len(self._policy) > 0 or self._is_running

    def add(
        self, inputs: Sequence[Sequence[int]], *, tenant: str = "", weight: int = 1
    ) -> Future[EmbeddingOutput]:
        """Queue the inputs of one request; cancelling the future drops those that have not run.

        Args:
            inputs: token ids, one list for each vector.
            tenant: for whom they are; tenants share the batches by weight.
            weight: the tenant's, 1 to 32.

        Raises:
            ValidationError: no input, or an empty one; or the weight is out of range.
            ContextLengthExceededError: an input is too long.
            QueueFullError: too many inputs wait already, of this tenant or altogether.
        """
        self.validate(inputs)
        whole_number_between("weight", weight, low=1, high=MAX_WEIGHT)
        job = _Job(Future(), self._clock(), sum(map(len, inputs)), [None] * len(inputs))
        with self._lock:
            self._require_place(tenant, len(inputs))
            for index, token_ids in enumerate(inputs):
                self._serial += 1
                self._wait(_Item(job, index, token_ids, self._serial, tenant, weight, job.arrival))
        return job.future

    def seconds_until_due(self) -> float | None:
        """Return how long the next batch may still wait: 0 = start it now, None = nothing waits."""
        with self._lock:
            while self._arrived and not self._arrived[0].is_waiting:
                self._arrived.popleft()
            if not self._arrived:
                return None
            if len(self._policy) >= self.config.max_batch_inputs:
                return 0.0
            if self._waiting_tokens >= self.config.max_batch_tokens:
                return 0.0
            waited = self._clock() - self._arrived[0].arrival
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
            waiting = [item for item in self._arrived if item.is_waiting]
            for item in waiting:
                self._leave(item)
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

    def _require_place(self, tenant: str, num_inputs: int) -> None:
        limit, own = self.config.max_waiting_inputs, self._waiting[tenant]
        whole = len(self._policy) + num_inputs
        is_greedy = bool(tenant) and own > 0 and own + num_inputs > limit - whole
        if whole > limit or is_greedy:
            whose = " already for this tenant" if is_greedy else ""
            raise QueueFullError(
                f"Too many inputs are waiting{whose}: try again soon, or send fewer at once.",
                limit=limit,
                current=own if is_greedy else len(self._policy),
                retry_after=1,
            )

    def _wait(self, item: _Item) -> None:
        self._policy.add(item)
        self._arrived.append(item)
        self._waiting[item.tenant] += 1
        self._waiting_tokens += item.num_due

    def _leave(self, item: _Item) -> None:
        item.is_waiting = False
        self._policy.remove(item)
        self._waiting[item.tenant] -= 1
        if not self._waiting[item.tenant]:
            del self._waiting[item.tenant]
        self._waiting_tokens -= item.num_due

    def _take_batch(self) -> list[_Item]:
        batch: list[_Item] = []
        tokens = 0
        with self._lock:
            while len(batch) < self.config.max_batch_inputs:
                item = self._policy.next()
                if item is None:
                    break
                is_wanted = not item.job.future.done()
                if is_wanted and batch and tokens + item.num_due > self.config.max_batch_tokens:
                    break  # nobody overtakes: who needs much would wait for ever
                if is_wanted:
                    self._policy.start(item)
                    batch.append(item)
                    tokens += item.num_due
                self._leave(item)
            self._is_running = True
        return batch

    def _run(self, batch: list[_Item]) -> None:
        begun, started = self._clock(), time.monotonic_ns()
        for item in batch:
            item.job.first_batch_at = begun if item.job.first_batch_at is None else item.job.first_batch_at
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
                queue_seconds=0.0 if job.first_batch_at is None else job.first_batch_at - job.arrival,
            )
        )
