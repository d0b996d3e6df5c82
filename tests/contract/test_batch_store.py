"""What every store of files and of batches promises."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tritium_platform.serving.batch import (
    OPEN_STATUSES,
    WINDOW,
    Batch,
    BatchEndpoint,
    BatchStatus,
    InputProblem,
    KeptLine,
)
from tritium_platform.serving.file import FilePurpose, StoredFile
from tritium_platform.values import uuid7

if TYPE_CHECKING:
    from uuid import UUID

    from conftest import Books

    from tritium_platform.adapters.memory.clock import ManualClock


def a_file(clock: ManualClock, *, tenant_id: UUID, purpose: FilePurpose = FilePurpose.BATCH) -> StoredFile:
    clock.advance(seconds=1)
    return StoredFile(
        id=uuid7(clock),
        tenant_id=tenant_id,
        purpose=purpose,
        filename="nächtlich.jsonl",
        size_bytes=2**33,
        created_at=clock.now(),
    )


def a_batch(clock: ManualClock, *, tenant_id: UUID, total: int = 10) -> Batch:
    clock.advance(seconds=1)
    return Batch(
        id=uuid7(clock),
        tenant_id=tenant_id,
        key_id="abcDEF012345",
        endpoint=BatchEndpoint.EMBEDDINGS,
        input_file_id=uuid7(clock),
        created_at=clock.now(),
        expires_at=clock.now() + WINDOW,
        metadata={"häufig": "\u0000 and ✓"},
        total=total,
    )


def a_line(number: int, *, content: str = "{}", is_error: bool = False) -> KeptLine:
    return KeptLine(number=number, content=content, is_error=is_error)


async def test_a_file_comes_back_to_its_tenant_alone(books: Books, clock: ManualClock) -> None:
    file = a_file(clock, tenant_id=uuid7(clock))
    stranger = uuid7(clock)
    await books.files.add(file)
    assert await books.files.get(file.id, tenant_id=file.tenant_id) == file
    assert await books.files.get(file.id, tenant_id=stranger) is None
    assert not await books.files.remove(file.id, tenant_id=stranger)
    assert (await books.files.count(file.tenant_id), await books.files.count(stranger)) == (1, 0)
    assert await books.files.remove(file.id, tenant_id=file.tenant_id)
    assert not await books.files.remove(file.id, tenant_id=file.tenant_id)
    assert await books.files.get(file.id, tenant_id=file.tenant_id) is None


async def test_files_come_in_pages_in_both_orders_and_by_purpose(books: Books, clock: ManualClock) -> None:
    tenant_id = uuid7(clock)
    made = [a_file(clock, tenant_id=tenant_id) for _ in range(3)]
    output = a_file(clock, tenant_id=tenant_id, purpose=FilePurpose.BATCH_OUTPUT)
    for file in (*made, output, a_file(clock, tenant_id=uuid7(clock))):
        await books.files.add(file)
    newest = await books.files.list(tenant_id, limit=2)
    assert list(newest) == [output, made[2]]
    await books.files.remove(made[2].id, tenant_id=tenant_id)  # a page goes on behind what is gone
    assert list(await books.files.list(tenant_id, limit=9, after=made[2].id)) == [made[1], made[0]]
    oldest = await books.files.list(tenant_id, limit=1, after=made[0].id, is_oldest_first=True)
    assert list(oldest) == [made[1]]
    outputs = await books.files.list(tenant_id, limit=9, purpose=FilePurpose.BATCH_OUTPUT)
    assert list(outputs) == [output]
    assert len(await books.files.list_all()) == 4


async def test_a_file_that_is_to_stay_cannot_be_removed_meanwhile(books: Books, clock: ManualClock) -> None:
    file = a_file(clock, tenant_id=uuid7(clock))
    await books.files.add(file)
    is_held, order = asyncio.Event(), list[str]()

    async def use() -> None:
        async with books.unit_of_work():
            assert await books.files.get(file.id, tenant_id=file.tenant_id, is_to_stay=True)
            is_held.set()
            await asyncio.sleep(0.2)
            await books.batches.add(a_batch(clock, tenant_id=file.tenant_id))
            order.append("used")

    async def remove() -> None:
        await is_held.wait()
        async with books.unit_of_work():
            assert await books.files.get(file.id, tenant_id=file.tenant_id, is_to_stay=True)
            assert len(await books.batches.list_open(file.tenant_id)) == 1
            order.append("removed")

    await asyncio.gather(use(), remove())
    assert order == ["used", "removed"]


async def test_a_batch_comes_back_as_it_was_given(books: Books, clock: ManualClock) -> None:
    batch = a_batch(clock, tenant_id=uuid7(clock))
    await books.batches.add(batch)
    assert await books.batches.get(batch.id) == batch
    assert await books.batches.get(batch.id, tenant_id=batch.tenant_id) == batch
    assert await books.batches.get(batch.id, tenant_id=uuid7(clock)) is None
    assert await books.batches.get(uuid7(clock)) is None


async def test_batches_come_in_pages_newest_first(books: Books, clock: ManualClock) -> None:
    tenant_id = uuid7(clock)
    made = [a_batch(clock, tenant_id=tenant_id) for _ in range(4)]
    for batch in (*made, a_batch(clock, tenant_id=uuid7(clock))):
        await books.batches.add(batch)
    assert list(await books.batches.list(tenant_id, limit=3)) == made[:0:-1]
    assert list(await books.batches.list(tenant_id, limit=3, after=made[1].id)) == [made[0]]


async def test_open_batches_are_those_in_an_open_status(books: Books, clock: ManualClock) -> None:
    tenant_id = uuid7(clock)
    made = {status: replace(a_batch(clock, tenant_id=tenant_id), status=status) for status in BatchStatus}
    other = a_batch(clock, tenant_id=uuid7(clock))
    for batch in (*made.values(), other):
        await books.batches.add(batch)
    expected = [batch for status, batch in made.items() if status in OPEN_STATUSES]
    assert list(await books.batches.list_open(tenant_id)) == expected
    assert list(await books.batches.list_open()) == [*expected, other]


async def test_of_two_moves_from_one_status_one_succeeds(books: Books, clock: ManualClock) -> None:
    batch = a_batch(clock, tenant_id=uuid7(clock), total=0)
    await books.batches.add(batch)
    begun = batch.moved(BatchStatus.IN_PROGRESS, at=clock.now(), total=7)
    cancelling = batch.moved(BatchStatus.CANCELLING, at=clock.now())
    moved = await asyncio.gather(
        books.batches.move(begun, expected=(BatchStatus.VALIDATING,)),
        books.batches.move(cancelling, expected=(BatchStatus.VALIDATING,)),
    )
    assert sorted(moved) == [False, True]
    assert await books.batches.get(batch.id) == (begun if moved[0] else cancelling)
    foreign = replace(begun, tenant_id=uuid7(clock))
    assert not await books.batches.move(foreign, expected=tuple(BatchStatus))


async def test_a_move_keeps_problems_and_files_and_leaves_the_counts_alone(
    books: Books, clock: ManualClock
) -> None:
    batch = a_batch(clock, tenant_id=uuid7(clock))
    await books.batches.add(batch)
    await books.batches.keep_lines(batch.id, [a_line(1), a_line(2, is_error=True)])
    problems = (InputProblem(code="c", message="m", line=3, param="p"), InputProblem(code="d", message="n"))
    stale = batch.moved(
        BatchStatus.FAILED, at=clock.now() + timedelta(microseconds=1), problems=problems,
        output_file_id=uuid7(clock), error_file_id=uuid7(clock),
    )  # fmt: skip
    assert await books.batches.move(stale, expected=(BatchStatus.VALIDATING,))
    kept = await books.batches.get(batch.id)
    assert kept == replace(stale, completed=1, failed=1, kept_bytes=6)


async def test_a_line_is_kept_and_counted_once_and_its_first_account_stands(
    books: Books, clock: ManualClock
) -> None:
    batch, other = (a_batch(clock, tenant_id=uuid7(clock)) for _ in range(2))
    for each in (batch, other):
        await books.batches.add(each)
    await books.batches.keep_lines(batch.id, [a_line(3, content="third"), a_line(1, is_error=True)])
    await books.batches.keep_lines(batch.id, [a_line(3, content="again", is_error=True), a_line(2)])
    await books.batches.keep_lines(other.id, [a_line(3)])
    assert set(await books.batches.kept_numbers(batch.id)) == {1, 2, 3}
    lines = await books.batches.list_lines(batch.id, after=0, limit=2)
    assert list(lines) == [a_line(1, is_error=True), a_line(2)]
    assert list(await books.batches.list_lines(batch.id, after=2, limit=2)) == [a_line(3, content="third")]
    kept = await books.batches.get(batch.id)
    assert kept is not None
    assert (kept.completed, kept.failed, kept.kept_bytes) == (2, 1, 6 + 3 + 3)
    assert await books.batches.kept_bytes(batch.tenant_id) == 12
    await books.batches.forget_lines(batch.id)
    assert not await books.batches.kept_numbers(batch.id)
    assert set(await books.batches.kept_numbers(other.id)) == {3}
    assert await books.batches.get(batch.id) == kept
    await books.batches.move(kept.moved(BatchStatus.FAILED, at=clock.now()), expected=(kept.status,))
    assert await books.batches.kept_bytes(batch.tenant_id) == 0


async def test_lines_that_are_kept_at_the_same_time_are_all_counted(books: Books, clock: ManualClock) -> None:
    batch = a_batch(clock, tenant_id=uuid7(clock), total=40)
    await books.batches.add(batch)
    halves = [[a_line(number) for number in range(first, first + 30)] for first in (1, 11)]
    await asyncio.gather(*(books.batches.keep_lines(batch.id, half) for half in halves))
    kept = await books.batches.get(batch.id)
    assert kept is not None
    assert (kept.completed, len(await books.batches.kept_numbers(batch.id))) == (40, 40)


async def test_a_line_that_is_kept_in_a_unit_that_fails_is_not_kept(books: Books, clock: ManualClock) -> None:
    batch = a_batch(clock, tenant_id=uuid7(clock))
    await books.batches.add(batch)

    async def fail() -> None:
        async with books.unit_of_work():
            await books.batches.keep_lines(batch.id, [a_line(1)])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await books.batches.get(batch.id) == batch
    assert not await books.batches.kept_numbers(batch.id)
