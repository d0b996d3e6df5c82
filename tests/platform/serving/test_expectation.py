"""When work will be done: the estimates against queues that are simulated to their ends."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.quotas.completion import Work, estimate_completion, measure_pace
from tritium_platform.serving.batch import Batch, BatchEndpoint, BatchStatus
from tritium_platform.serving.expectation import expect_batch, expect_quantization
from tritium_platform.serving.job import JobLayer, JobState, QuantizationJob
from tritium_platform.tenancy.model import TenantTier

NOW = ManualClock().now()


def a_job(number, *, size=10**9, state=JobState.QUEUED, began=None, took=None, profile="fast", **fields):
    return QuantizationJob(
        id=UUID(int=number),
        tenant_id=UUID(int=1),
        tier=TenantTier.TEAM,
        key_id="k",
        source="s",
        source_path="/s",
        model_name="m",
        config={"profile": profile},
        storage_reservation=UUID(int=2),
        storage_bytes=size,
        created_at=NOW,
        state=state,
        started_at=began,
        finished_at=None if began is None or took is None else began + timedelta(seconds=took),
        **fields,
    )


def a_queue(random_source):
    """Past jobs, a queue of which the first runs, and seconds from now until the last of it ends."""
    pace = random_source.uniform(1e-8, 1e-6)

    def duration(size):
        return size * pace * random_source.lognormvariate(0, 0.4)

    sizes = [random_source.randint(10**8, 10**10) for _ in range(30)]
    split = random_source.randint(5, 25)
    past = [
        a_job(number, size=size, state=JobState.SUCCEEDED, began=NOW, took=duration(size))
        for number, size in enumerate(sizes[:split])
    ]
    durations = [duration(size) for size in sizes[split:]]
    elapsed = durations[0] * random_source.random()
    queue = [a_job(100 + place, size=size) for place, size in enumerate(sizes[split:])]
    queue[0] = replace(queue[0], state=JobState.RUNNING, started_at=NOW - timedelta(seconds=elapsed))
    return past, queue, sum(durations) - elapsed


def test_the_interval_holds_the_end_of_a_simulated_queue_in_about_four_of_five_cases():
    held = early = late = 0
    for seed in range(400):
        past, queue, seconds = a_queue(random.Random(seed))
        expected = expect_quantization(queue[-1], waiting=queue, finished=past, now=NOW)
        assert expected.earliest <= expected.at <= expected.latest
        end = NOW + timedelta(seconds=seconds)
        held += expected.earliest <= end <= expected.latest
        early += end < expected.at
        late += end > expected.at
    assert 0.72 <= held / 400 <= 0.9
    assert 0.35 <= early / (early + late) <= 0.65


def test_a_job_waits_for_those_before_it_and_for_nobody_else():
    past = [a_job(1, state=JobState.SUCCEEDED, began=NOW, took=60)]
    queue = [a_job(5), a_job(6), a_job(7)]
    ends = [expect_quantization(job, waiting=queue, finished=past, now=NOW).at for job in queue]
    assert ends == [NOW + timedelta(seconds=60 * place) for place in (1, 2, 3)]


def test_a_running_job_goes_by_its_own_layers():
    layers = tuple(
        JobLayer(index=index, name="l", strategy="s", planes=1, loss=0.1, seconds=2.0) for index in range(10)
    )
    began = NOW - timedelta(seconds=20)
    running = a_job(5, state=JobState.RUNNING, began=began, total_layers=40, layers=layers)
    expected = expect_quantization(running, waiting=[running], finished=[], now=NOW)
    assert expected.at == NOW + timedelta(seconds=60)


def test_nothing_is_said_where_nothing_was_measured():
    past = [a_job(1, state=JobState.SUCCEEDED, began=NOW, took=60, profile="best")]
    queue = [a_job(5, profile="best"), a_job(6, profile="fast"), a_job(7, profile="best")]
    assert expect_quantization(queue[0], waiting=queue, finished=past, now=NOW) is not None
    assert expect_quantization(queue[1], waiting=queue, finished=past, now=NOW) is None
    assert expect_quantization(queue[2], waiting=queue, finished=past, now=NOW) is None
    assert (
        expect_quantization(replace(queue[0], state=JobState.FAILED), waiting=[], finished=past, now=NOW)
        is None
    )
    assert measure_pace([]) is None
    assert estimate_completion([]).latest == 0


def test_work_that_takes_longer_than_it_should_is_expected_at_any_moment():
    pace = measure_pace([10.0])
    overdue = estimate_completion([Work(units=1, pace=pace, elapsed=50)])
    assert overdue.expected == overdue.earliest == 0
    assert overdue.latest > 0


def a_batch(*, total, done, seconds, status=BatchStatus.IN_PROGRESS):
    return Batch(
        id=UUID(int=1),
        tenant_id=UUID(int=1),
        key_id="k",
        endpoint=BatchEndpoint.EMBEDDINGS,
        input_file_id=UUID(int=2),
        created_at=NOW,
        expires_at=NOW + timedelta(hours=24),
        status=status,
        in_progress_at=NOW - timedelta(seconds=seconds),
        total=total,
        completed=done,
    )


def test_the_interval_of_a_batch_holds_its_simulated_end_in_about_four_of_five_cases():
    held = 0
    for seed in range(400):
        source = random.Random(seed)
        total = source.randint(20, 2000)
        done = source.randint(10, total - 1)
        gaps = [source.expovariate(1.0) for _ in range(total)]
        batch = a_batch(total=total, done=done, seconds=sum(gaps[:done]))
        expected = expect_batch(batch, now=NOW)
        held += expected.earliest <= NOW + timedelta(seconds=sum(gaps[done:])) <= expected.latest
    assert 0.72 <= held / 400 <= 0.9


@pytest.mark.parametrize(
    "batch",
    [
        a_batch(total=100, done=9, seconds=5),
        a_batch(total=100, done=50, seconds=5, status=BatchStatus.FINALIZING),
    ],
)
def test_nothing_is_said_of_a_batch_that_has_hardly_begun_or_is_over(batch):
    assert expect_batch(batch, now=NOW) is None
