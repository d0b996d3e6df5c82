"""When a tenant's quantization or batch will be done, as far as what was measured can tell."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from tritium_platform.quotas.completion import Pace, Work, estimate_completion, measure_pace
from tritium_platform.serving.batch import BatchStatus
from tritium_platform.serving.job import JobState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tritium_platform.quotas.completion import Completion
    from tritium_platform.serving.batch import Batch
    from tritium_platform.serving.job import QuantizationJob

# Fewer lines than these say little of how fast a batch goes on.
FEWEST_LINES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The expected end of work, and the interval that holds it in about four of five cases."""

    at: datetime
    earliest: datetime
    latest: datetime


def expect_quantization(
    job: QuantizationJob,
    *,
    waiting: Sequence[QuantizationJob],
    finished: Sequence[QuantizationJob],
    now: datetime,
) -> Expectation | None:
    """Return when a job will be done that is done after those before it.

    Args:
        job: an open job; with its finished layers, if it runs.
        waiting: the open jobs of everybody, oldest first; they are done one after the other.
        finished: jobs that succeeded lately, whose pace is measured.
        now: the instant.

    Returns:
        None if the job is over, or if no job of its kind, or of one before it, has succeeded yet.
    """
    if job.state not in (JobState.QUEUED, JobState.RUNNING):
        return None
    if job.state is JobState.RUNNING and job.layers and job.total_layers:
        return _expectation(_by_layers(job), now=now)
    queue = []
    for each in (*(other for other in waiting if other.id < job.id), job):
        pace = _pace_of(each, finished)
        if pace is None:
            return None
        elapsed = (now - each.started_at).total_seconds() if each.started_at else 0.0
        queue.append(Work(units=each.storage_bytes, pace=pace, elapsed=elapsed))
    return _expectation(estimate_completion(queue), now=now)


def expect_batch(batch: Batch, *, now: datetime) -> Expectation | None:
    """Return when a batch will be answered at the pace of its lines until now; None before that is known."""
    done = batch.completed + batch.failed
    if batch.status is not BatchStatus.IN_PROGRESS or batch.in_progress_at is None or done < FEWEST_LINES:
        return None
    mean = (now - batch.in_progress_at).total_seconds() / done
    left = batch.total - done
    # Lines end as those that share an engine do: the time between two ends is spread as widely as it is long.
    pace = Pace(mean=mean, variance=mean**2, count=done)
    return _expectation(estimate_completion([Work(units=left, pace=pace, pieces=max(1, left))]), now=now)


def _pace_of(job: QuantizationJob, finished: Sequence[QuantizationJob]) -> Pace | None:
    """Return seconds per byte set aside for a result, measured on jobs of the same method."""
    return measure_pace(
        [
            (each.finished_at - each.started_at).total_seconds() / each.storage_bytes
            for each in finished
            if each.finished_at and each.started_at and _method(each) == _method(job)
        ]
    )


def _method(job: QuantizationJob) -> tuple[object, object]:
    return job.config.get("profile"), job.config.get("strategy")


def _by_layers(job: QuantizationJob) -> Completion:
    """Go by the job's own layers: they know the machine and the method."""
    left = (job.total_layers or 0) - len(job.layers)
    pace = measure_pace([layer.seconds for layer in job.layers])
    return estimate_completion([Work(units=left, pace=pace, pieces=max(1, left))] if pace else [])


def _expectation(completion: Completion, *, now: datetime) -> Expectation:
    return Expectation(
        at=now + timedelta(seconds=completion.expected),
        earliest=now + timedelta(seconds=completion.earliest),
        latest=now + timedelta(seconds=completion.latest),
    )
