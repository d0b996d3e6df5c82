"""What every store of quantization jobs promises."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from tritium_platform.serving.job import OPEN_STATES, JobLayer, JobState, QuantizationJob
from tritium_platform.tenancy.model import TenantTier
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock


def a_job(clock: ManualClock, *, tenant_id: UUID) -> QuantizationJob:
    clock.advance(seconds=1)
    return QuantizationJob(
        id=uuid7(clock),
        tenant_id=tenant_id,
        tier=TenantTier.TEAM,
        key_id="abcDEF012345",
        source="small-llama ✓",
        source_path="/models/ö",
        model_name="small",
        config={"group_size": 128, "layers": {"a.b": [1, 2]}, "loss": 0.25, "calibration_text": "a secret"},
        storage_reservation=uuid7(clock),
        storage_bytes=2**40,
        created_at=clock.now(),
    )


def a_layer(index: int, *, loss: float = 0.1) -> JobLayer:
    return JobLayer(index=index, name=f"layer {index}", strategy="standard", planes=2, loss=loss, seconds=1.5)


async def test_a_job_comes_back_as_it_was_given(books: Books, clock: ManualClock) -> None:
    job = a_job(clock, tenant_id=uuid7(clock))
    await books.jobs.add(job)
    assert await books.jobs.get(job.id) == job
    assert await books.jobs.get(job.id, tenant_id=job.tenant_id) == job
    assert await books.jobs.get(job.id, tenant_id=uuid7(clock)) is None
    assert await books.jobs.get(uuid7(clock)) is None


async def test_layers_come_back_in_order_and_the_first_account_stands(
    books: Books, clock: ManualClock
) -> None:
    job = a_job(clock, tenant_id=uuid7(clock))
    other = a_job(clock, tenant_id=job.tenant_id)
    for each in (job, other):
        await books.jobs.add(each)
    for index in (2, 0, 1):
        await books.jobs.record_layer(job.id, a_layer(index))
    await books.jobs.record_layer(job.id, a_layer(1, loss=0.9))
    found = await books.jobs.get(job.id)
    assert found == replace(job, layers=tuple(a_layer(index) for index in range(3)))
    assert (await books.jobs.get(other.id)).layers == ()
    assert all(each.layers == () for each in await books.jobs.list(job.tenant_id))


async def test_jobs_are_listed_newest_first_for_their_tenant(books: Books, clock: ManualClock) -> None:
    mine, theirs = uuid7(clock), uuid7(clock)
    jobs = [a_job(clock, tenant_id=mine if number % 2 else theirs) for number in range(6)]
    for job in jobs:
        await books.jobs.add(job)
    assert [job.id for job in await books.jobs.list(mine)] == [jobs[5].id, jobs[3].id, jobs[1].id]
    assert [job.id for job in await books.jobs.list(mine, limit=2)] == [jobs[5].id, jobs[3].id]
    assert [job.id for job in await books.jobs.list()] == [job.id for job in reversed(jobs)]


async def test_a_job_moves_only_from_a_state_its_author_believed_in(books: Books, clock: ManualClock) -> None:
    job = a_job(clock, tenant_id=uuid7(clock))
    await books.jobs.add(job)
    running = replace(job, state=JobState.RUNNING, started_at=clock.now(), total_layers=7)
    assert await books.jobs.move(running, expected={JobState.QUEUED})
    assert not await books.jobs.move(running, expected={JobState.QUEUED})
    finished_at = clock.now() + timedelta(seconds=3)
    failed = replace(
        running.closed(JobState.FAILED, at=finished_at),
        error_code="quantization",
        error_message="ö" * 5000,
        error_recovery="contact_operator",
    )
    assert not await books.jobs.move(replace(failed, tenant_id=uuid7(clock)), expected=OPEN_STATES)
    assert await books.jobs.move(failed, expected=OPEN_STATES)
    assert await books.jobs.get(job.id) == failed
    assert "a secret" not in str(await books.jobs.get(job.id)), "texts are kept until the end only"
    assert [each.id for each in await books.jobs.list_in({JobState.FAILED})] == [job.id]
    assert not await books.jobs.list_in(OPEN_STATES)


async def test_of_two_workers_that_move_a_job_at_the_same_time_one_wins(
    books: Books, clock: ManualClock
) -> None:
    job = a_job(clock, tenant_id=uuid7(clock))
    await books.jobs.add(job)
    running = replace(job, state=JobState.RUNNING)
    results = await asyncio.gather(*(books.jobs.move(running, expected={JobState.QUEUED}) for _ in range(8)))
    assert sorted(results) == [False] * 7 + [True]
