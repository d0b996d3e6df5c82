"""Whatever happens to a batch, every line of it ends once, and is billed once if it was answered."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritium_platform.adapters.memory.audit_outbox import MemoryAuditOutbox
from tritium_platform.adapters.memory.batch_store import MemoryBatchStore
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.file_store import MemoryFileStore
from tritium_platform.adapters.memory.quota_store import MemoryReservationStore
from tritium_platform.adapters.memory.tenancy_store import MemoryTenantStore
from tritium_platform.errors import (
    ConflictError,
    NotFoundError,
    OverloadedError,
    PlatformError,
    ProcessingError,
    RateLimitExceededError,
    StorageQuotaExceededError,
    ValidationError,
)
from tritium_platform.quotas.service import QuotaService
from tritium_platform.serving import batches as batches_module
from tritium_platform.serving.batch import BatchEndpoint, BatchStatus, KeptLine
from tritium_platform.serving.batch_lines import BatchRun, LineRunner, answered_line
from tritium_platform.serving.batch_output import BatchCloser
from tritium_platform.serving.batch_work import BatchWork
from tritium_platform.serving.batches import BatchService
from tritium_platform.serving.file import FilePurpose
from tritium_platform.serving.files import FileService
from tritium_platform.tenancy.model import TenantStatus, TenantTier
from tritium_platform.tenancy.service import TenancyService

ENDPOINT = BatchEndpoint.COMPLETIONS
NEXT = {
    BatchStatus.VALIDATING: {
        BatchStatus.FAILED,
        BatchStatus.IN_PROGRESS,
        BatchStatus.CANCELLING,
        BatchStatus.EXPIRED,
    },
    BatchStatus.IN_PROGRESS: {
        BatchStatus.FINALIZING,
        BatchStatus.CANCELLING,
        BatchStatus.EXPIRED,
        BatchStatus.FAILED,
    },
    BatchStatus.FINALIZING: {BatchStatus.COMPLETED},
    BatchStatus.CANCELLING: {BatchStatus.CANCELLED, BatchStatus.FAILED},
}


class KilledError(BaseException):
    """The server died here."""


class StillClock(ManualClock):
    """Time that stands still: whoever sleeps is soon awake again."""

    num_sleeps = 0

    async def sleep(self, seconds):
        self.num_sleeps += 1
        await asyncio.sleep(0.001)


async def until(claim):
    """Wait until a claim is true."""
    async with asyncio.timeout(60):
        while not claim():
            await asyncio.sleep(0.001)


@dataclass
class Door:
    """A road on which each attempt ends as it is told: an answer is kept and billed in one transaction."""

    office: Office
    ends: list[str]
    billed: list[UUID] = field(default_factory=list)
    attempts: int = 0

    async def admit(self, batch, line, *, context):
        end = self.ends.pop(0) if self.ends else "answer"
        self.attempts += 1
        self.office.seen(batch.id)
        if end == "refuse":
            raise OverloadedError("no engine")
        if end == "ours":
            raise PlatformError("our fault")
        if end == "wrong":
            raise ValidationError("wrong body")
        return self.work(end, batch, line)

    async def work(self, end, batch, line):
        await asyncio.sleep(0)
        if end == "die before":
            raise KilledError
        if end == "break":
            raise OverloadedError("the engine died")
        if end == "fail":
            raise ProcessingError("it failed")
        if end == "bug":
            raise ZeroDivisionError
        content = answered_line(batch, line, status=200, body={"text": "ö"})
        async with self.office.database.unit_of_work():
            await self.office.batches.keep_lines(
                batch.id, [KeptLine(number=line.number, content=content, is_error=False)]
            )
            self.billed.append(batch.line_id(line.number))
        if end == "die after":
            raise KilledError
        if end == "cancel":
            await self.office.cancel(batch)
        if end == "expire":
            self.office.clock.advance(seconds=86_400)
        yield content

    def problem(self, error):
        return 500, {"error": {"code": type(error).__name__}}


class Office:
    """Batches over memory and a real directory, with one tenant."""

    @classmethod
    async def open(cls, directory, *, clock=None, **limits):
        office = cls()
        office.directory, office.clock, office.database = directory, clock or ManualClock(), MemoryDatabase()
        office.tenancy = TenancyService(
            store=MemoryTenantStore(office.database), pepper=bytes(32), clock=office.clock
        )
        office.outbox = MemoryAuditOutbox(office.database)
        office.batches = MemoryBatchStore(office.database)
        office.quotas = QuotaService(store=MemoryReservationStore(office.database), clock=office.clock)
        office.start()
        tenant = await office.tenancy.create_tenant(
            organization_name="Acme", tier=TenantTier.DEVELOPER, limit_overrides=limits
        )
        office.tenant_id = tenant.id
        office.key, token = await office.tenancy.create_key(tenant.id, name="k")
        office.context = await office.tenancy.authenticate_request(token)
        office.statuses = {}
        return office

    def start(self):
        """Make everything that a server holds in memory anew."""
        self.files = FileService(
            store=MemoryFileStore(self.database),
            batches=self.batches,
            directory=self.directory,
            limit=100_000,
            quotas=self.quotas,
            clock=self.clock,
        )
        self.service = BatchService(store=self.batches, files=self.files, clock=self.clock)
        closer = BatchCloser(
            batches=self.batches,
            files=self.files,
            outbox=self.outbox,
            unit_of_work=self.database.unit_of_work,
            clock=self.clock,
        )
        lines = LineRunner(
            batches=self.batches, quotas=self.quotas, key_holders=self.tenancy, clock=self.clock
        )
        self.work = BatchWork(
            batches=self.batches, files=self.files, lines=lines, closer=closer, clock=self.clock
        )

    async def upload(self, *lines):
        async def chunks():
            for line in lines:
                yield json.dumps(line).encode() + b"\n"

        received = await self.files.receive(
            self.context, chunks=chunks(), filename="a.jsonl", purpose=FilePurpose.BATCH
        )
        return await self.files.keep(received)

    async def create(self, num_lines):
        file = await self.upload(*map(a_line, range(num_lines)))
        return await self.service.create(self.context, endpoint=ENDPOINT, input_file_id=file.id, metadata={})

    async def cancel(self, batch):
        cancelled = await self.service.cancel(batch.tenant_id, batch.id)
        self.seen(batch.id)
        self.run.stopping.set()
        return cancelled

    def seen(self, batch_id):
        status = self.batches._batches[batch_id].status
        seen = self.statuses.setdefault(batch_id, [status])
        if status is not seen[-1]:
            seen.append(status)

    async def attend(self, batch, door):
        """Work on a batch until it is over, starting a new server whenever one was killed."""
        for _ in range(100):
            self.run = BatchRun(batch=batch, door=door)
            try:
                await self.work.work(self.run)
            except BaseExceptionGroup as group:
                if group.subgroup(KilledError) is None:
                    raise
                self.start()
                await self.files.clean()
                continue
            return await self.batches.get(batch.id)
        raise AssertionError("the batch does not end")

    async def read(self, file_id):
        if file_id is None:
            return []
        file = await self.files.get(self.tenant_id, file_id)
        content = self.files.path(self.tenant_id, file_id).read_bytes()
        assert len(content) == file.size_bytes
        return [json.loads(line) for line in content.splitlines()]

    async def storage(self):
        usage = await self.quotas.storage.usage(self.context)
        assert usage.held == 0
        return usage.used


def a_line(number):
    return {"custom_id": f"line-{number}", "method": "POST", "url": ENDPOINT.value, "body": {"model": "m"}}


endings = st.lists(
    st.sampled_from(
        [
            "answer",
            "refuse",
            "ours",
            "wrong",
            "break",
            "fail",
            "bug",
            "die before",
            "die after",
            "cancel",
            "expire",
        ]
    ),
    max_size=25,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(num_lines=st.integers(1, 12), ends=endings)
async def test_however_attempts_end_every_line_ends_once_and_answers_are_billed_once(
    tmp_path_factory, num_lines, ends
):
    office = await Office.open(tmp_path_factory.mktemp("files"))
    batch, door = await office.create(num_lines), Door(office, ends)
    closed = await office.attend(batch, door)
    assert closed.status in {BatchStatus.COMPLETED, BatchStatus.CANCELLED, BatchStatus.EXPIRED}
    assert closed.completed + closed.failed == closed.total == num_lines

    answers, errors = await office.read(closed.output_file_id), await office.read(closed.error_file_id)
    assert (len(answers), len(errors)) == (closed.completed, closed.failed)
    names = [each["custom_id"] for each in (*answers, *errors)]
    assert sorted(names) == sorted(f"line-{number}" for number in range(num_lines))
    order = [int(each["custom_id"].removeprefix("line-")) for each in answers]
    assert order == sorted(order)
    # Billed is what was answered: once, and nothing else.
    assert sorted(f"batch_req_{line_id.hex}" for line_id in door.billed) == sorted(a["id"] for a in answers)

    office.seen(batch.id)
    seen = office.statuses[batch.id]
    for before, after in itertools.pairwise(seen):
        assert after in NEXT[before] | {status for each in NEXT[before] for status in NEXT.get(each, set())}
    assert not await office.batches.kept_numbers(batch.id)
    files = await office.files.list(office.tenant_id, limit=10)
    assert await office.storage() == sum(file.size_bytes for file in files)
    assert len([path for path in office.directory.glob("*/*") if path.is_file()]) == len(files)
    (intent,) = [each for each in await office.outbox.pending(limit=10) if each.action == "batch.finish"]
    assert intent.details["status"] == closed.status.value


async def test_what_may_pass_is_waited_for_and_what_breaks_three_times_is_given_up(tmp_path):
    office = await Office.open(tmp_path)
    door = Door(office, ["refuse"] * 20 + ["break"] * 3)
    closed = await office.attend(await office.create(1), door)
    assert (door.attempts, closed.status, closed.failed) == (23, BatchStatus.COMPLETED, 1)
    (error,) = await office.read(closed.error_file_id)
    assert error["response"]["body"]["error"]["code"] == "OverloadedError"


@pytest.mark.parametrize(
    ("end", "attempts"), [("ours", 3), ("break", 3), ("fail", 3), ("wrong", 1), ("bug", 1)]
)
async def test_what_is_ours_is_tried_again_and_what_is_wrong_is_not(tmp_path, end, attempts):
    office = await Office.open(tmp_path)
    door = Door(office, [end] * 3)
    closed = await office.attend(await office.create(1), door)
    assert (door.attempts, closed.failed) == (attempts, 1)
    office = await Office.open(tmp_path / "again")
    closed = await office.attend(await office.create(1), Door(office, [end] * (attempts - 1)))
    assert closed.completed == 1


async def test_a_batch_out_of_time_expires_with_what_it_has(tmp_path):
    office = await Office.open(tmp_path)
    closed = await office.attend(await office.create(3), Door(office, ["answer"] + ["refuse"] * 9_999))
    assert (closed.status, closed.completed, closed.failed) == (BatchStatus.EXPIRED, 1, 2)
    assert closed.expired_at >= closed.expires_at
    errors = await office.read(closed.error_file_id)
    assert {(each["response"], each["error"]["code"]) for each in errors} == {(None, "batch_expired")}


async def test_lines_wait_while_the_storage_is_full_and_go_on_when_there_is_room(tmp_path):
    office = await Office.open(tmp_path, clock=StillClock(), max_storage=100_000)
    batch, door = await office.create(5), Door(office, [])
    filler = await office.quotas.storage.reserve(office.context, size=100_000 - await office.storage())
    attending = asyncio.create_task(office.attend(batch, door))
    await until(lambda: office.clock.num_sleeps >= 8)
    assert (door.attempts, (await office.batches.get(batch.id)).status) == (0, BatchStatus.IN_PROGRESS)
    await office.quotas.storage.void(filler)
    closed = await attending
    assert (closed.status, closed.completed) == (BatchStatus.COMPLETED, 5)


async def test_answers_that_do_not_fit_are_kept_and_no_more_are_begun(tmp_path):
    office = await Office.open(tmp_path, max_storage=1_000)
    closed = await office.attend(await office.create(8), Door(office, []))
    assert closed.status is BatchStatus.EXPIRED
    assert 1 <= closed.completed < 8
    assert len(await office.read(closed.output_file_id)) == closed.completed
    assert await office.storage() > 1_000
    with pytest.raises(StorageQuotaExceededError):
        await office.upload(a_line(0))


async def test_a_revoked_key_ends_its_batch_and_a_suspended_tenant_pauses_it(tmp_path):
    office = await Office.open(tmp_path, clock=StillClock())
    batch, door = await office.create(3), Door(office, [])
    await office.tenancy.change_tenant(office.tenant_id, status=TenantStatus.SUSPENDED)
    attending = asyncio.create_task(office.attend(batch, door))
    await until(lambda: office.clock.num_sleeps >= 8)
    assert (door.attempts, (await office.batches.get(batch.id)).status) == (0, BatchStatus.IN_PROGRESS)
    await office.tenancy.revoke_key(office.key.id, tenant_id=office.tenant_id)
    closed = await attending
    assert (closed.status, closed.completed, door.billed) == (BatchStatus.CANCELLED, 0, [])
    assert closed.failed == closed.total == 3


async def test_an_input_file_that_is_lost_fails_the_batch_and_keeps_its_answers(tmp_path):
    office = await Office.open(tmp_path)
    batch, door = await office.create(6), Door(office, ["answer", "answer", "die after"])
    with pytest.raises(BaseExceptionGroup):
        await office.work.work(BatchRun(batch=batch, door=door))
    office.files.path(office.tenant_id, batch.input_file_id).unlink()
    closed = await office.attend(batch, door)
    assert (closed.status, closed.problems[0].code) == (BatchStatus.FAILED, "input_file_lost")
    assert len(await office.read(closed.output_file_id)) == closed.completed >= 3


async def test_a_file_that_an_open_batch_reads_stays_and_others_tenants_see_nothing(tmp_path):
    office = await Office.open(tmp_path)
    batch = await office.create(1)
    with pytest.raises(ConflictError):
        await office.files.remove(office.tenant_id, batch.input_file_id)
    stranger = UUID(int=7)
    with pytest.raises(NotFoundError):
        await office.files.remove(stranger, batch.input_file_id)
    with pytest.raises(NotFoundError):
        await office.service.cancel(stranger, batch.id)
    closed = await office.attend(batch, Door(office, []))
    with pytest.raises(ConflictError, match="completed"):
        await office.service.cancel(office.tenant_id, batch.id)
    with pytest.raises(ValidationError, match="batch_output"):
        await office.service.create(
            office.context, endpoint=ENDPOINT, input_file_id=closed.output_file_id, metadata={}
        )
    removed = await office.files.remove(office.tenant_id, batch.input_file_id)
    await office.files.erase(removed)


async def test_a_tenant_has_so_many_open_batches_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(batches_module, "MAX_OPEN", 2)
    office = await Office.open(tmp_path)
    for _ in range(2):
        await office.create(1)
    with pytest.raises(RateLimitExceededError, match="open batches"):
        await office.create(1)


async def test_the_search_takes_up_every_open_batch_and_stops_what_is_cancelled(tmp_path):
    office = await Office.open(tmp_path, clock=StillClock())
    first, second, third = await office.create(2), await office.create(2), await office.create(2)
    door = Door(office, ["refuse"] * 100_000)
    office.work.start(door)
    try:
        await until(lambda: door.attempts >= 20)
        await office.service.cancel(office.tenant_id, first.id)
        await until(lambda: office.batches._batches[first.id].status is BatchStatus.CANCELLED)
        door.ends.clear()
        statuses = office.batches._batches
        await until(lambda: all(statuses[b.id].status is BatchStatus.COMPLETED for b in (second, third)))
        await until(lambda: not office.work._runs)
    finally:
        await office.work.stop()
    assert len(door.billed) == 4


async def test_a_line_on_its_way_is_left_when_the_server_stops_and_answered_by_the_next(tmp_path):
    office = await Office.open(tmp_path, clock=StillClock())
    batch = await office.create(3)
    office.work.start(Door(office, ["refuse"] * 100_000))
    await until(lambda: office.batches._batches[batch.id].status is BatchStatus.IN_PROGRESS)
    await office.work.stop()
    assert [batch.status for batch in await office.batches.list_open()] == [BatchStatus.IN_PROGRESS]
    office.start()
    closed = await office.attend(batch, Door(office, []))
    assert (closed.status, closed.completed) == (BatchStatus.COMPLETED, 3)
