from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest

from tritium_platform.adapters.file_shelf import FileShelf
from tritium_platform.adapters.memory.audit_outbox import MemoryAuditOutbox
from tritium_platform.adapters.memory.batch_store import MemoryBatchStore
from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.adapters.memory.database import MemoryDatabase
from tritium_platform.adapters.memory.file_store import MemoryFileStore
from tritium_platform.adapters.memory.quota_store import MemoryReservationStore
from tritium_platform.adapters.memory.security_store import MemorySecurityEventStore
from tritium_platform.adapters.upload_shelf import UploadShelf
from tritium_platform.errors import ValidationError
from tritium_platform.privacy.retention import (
    DataKind,
    KeptThing,
    RetentionRule,
    RetentionService,
    RetentionVerdict,
    decide_retention,
)
from tritium_platform.quotas.model import ALWAYS, QuotaMeter
from tritium_platform.quotas.service import QuotaService
from tritium_platform.security.model import SecurityEvent, SecurityEventType, ThreatLevel
from tritium_platform.serving.batch import Batch, BatchEndpoint
from tritium_platform.serving.file import FilePurpose, StoredFile
from tritium_platform.serving.files import FileService
from tritium_platform.serving.uploads import UploadService

DAY = timedelta(days=1)
NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULE = RetentionRule(keep=30 * DAY, reason="thirty days")
TENANT = UUID(int=1)


def an_upload(age: timedelta, **fields) -> KeptThing:
    return KeptThing(kind=DataKind.UPLOAD, id=UUID(int=2), tenant_id=TENANT, created_at=NOW - age, **fields)


@pytest.mark.parametrize(
    ("thing", "verdict", "reason"),
    [
        (an_upload(29 * DAY), "keep", "thirty days"),
        (an_upload(30 * DAY), "delete", "thirty days"),
        (an_upload(99 * DAY, held_because="a court asked for it"), "keep", "court"),
        (an_upload(99 * DAY, statutory_until=NOW + DAY), "keep", "the law"),
        (an_upload(99 * DAY, statutory_until=NOW), "delete", "thirty days"),
        (an_upload(99 * DAY, held_because="hold", statutory_until=NOW + DAY), "keep", "hold"),
    ],
)
def test_a_hold_outranks_the_law_and_the_law_outranks_the_rule(thing, verdict, reason):
    decision = decide_retention(thing, rule=RULE, now=NOW)
    assert decision.verdict is RetentionVerdict(verdict)
    assert reason in decision.reason


def test_a_rule_that_keeps_nothing_is_refused():
    with pytest.raises(ValidationError):
        RetentionRule(keep=timedelta(0), reason="")


class OpenJobs:
    def __init__(self) -> None:
        self.paths: list[str] = []

    async def list_in(self, states):
        return [SimpleNamespace(source_path=path) for path in self.paths]


@pytest.fixture
def world(tmp_path):
    """A disk with uploads, books in memory, and the service over them."""
    database, clock, jobs = MemoryDatabase(), ManualClock(), OpenJobs()
    quotas = QuotaService(store=MemoryReservationStore(database), clock=clock)
    uploads = UploadService(directory=tmp_path, limit=10**9, quotas=quotas, clock=clock)
    store, batches = MemoryFileStore(database), MemoryBatchStore(database)
    files = FileService(
        store=store,
        batches=batches,
        directory=tmp_path / "files",
        limit=10**9,
        quotas=quotas,
        clock=clock,
    )
    outbox, events = MemoryAuditOutbox(database), MemorySecurityEventStore(database)
    service = RetentionService(
        shelves={
            DataKind.UPLOAD: UploadShelf(directory=tmp_path, uploads=uploads, jobs=jobs),
            DataKind.BATCH_FILE: FileShelf(
                store=store, files=files, batches=batches, unit_of_work=database.unit_of_work
            ),
        },
        events=events,
        trail=outbox,
        clock=clock,
    )

    def put(number: int, *, age: timedelta):
        path = tmp_path / str(TENANT) / str(UUID(int=number))
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(b"x" * 100)
        moment = (clock.now() - age).timestamp()
        os.utime(path, (moment, moment))
        return path

    async def put_file(number: int, *, age: timedelta):
        file = StoredFile(
            id=UUID(int=number),
            tenant_id=TENANT,
            purpose=FilePurpose.BATCH,
            filename="a.jsonl",
            size_bytes=100,
            created_at=clock.now() - age,
        )
        path = files.path(TENANT, file.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
        await files.keep_output(file)
        return file, path

    return SimpleNamespace(
        service=service,
        put=put,
        put_file=put_file,
        jobs=jobs,
        outbox=outbox,
        events=events,
        clock=clock,
        batches=batches,
        counter=lambda: database.tables["quota_counters"][TENANT, QuotaMeter.STORAGE_BYTES, ALWAYS],
    )


async def test_a_sweep_deletes_old_uploads_and_leaves_a_certificate(world):
    old, new = world.put(1, age=31 * DAY), world.put(2, age=29 * DAY)
    (old.parent / "not-an-upload").mkdir()
    report = await world.service.sweep()
    assert [thing.id.int for thing in report.due] == [1]
    assert (old.exists(), new.exists()) == (False, True)
    (certificate,) = await world.outbox.pending(limit=9)
    assert (certificate.action, certificate.details["uploads"]) == ("retention.delete", 1)
    assert (await world.service.sweep()).due == ()
    assert len(await world.outbox.pending(limit=9)) == 1


async def test_an_upload_that_a_quantization_reads_is_left(world):
    path = world.put(1, age=99 * DAY)
    world.jobs.paths = [str(path)]
    report = await world.service.sweep()
    assert report.due == ()
    assert [(thing.id.int, reason) for thing, reason in report.held] == [(1, "a quantization reads it")]
    assert path.exists()


async def test_an_old_file_goes_with_its_storage_unless_an_open_batch_reads_it(world):
    old, path = await world.put_file(1, age=31 * DAY)
    read, _ = await world.put_file(2, age=31 * DAY)
    await world.put_file(3, age=29 * DAY)
    batch = Batch(
        id=UUID(int=9),
        tenant_id=TENANT,
        key_id="k",
        endpoint=BatchEndpoint.COMPLETIONS,
        input_file_id=read.id,
        created_at=world.clock.now(),
        expires_at=world.clock.now() + DAY,
    )
    await world.batches.add(batch)
    report = await world.service.sweep()
    assert [thing.id for thing in report.of(DataKind.BATCH_FILE)] == [old.id]
    assert [(thing.id, reason) for thing, reason in report.held] == [(read.id, "a batch reads it")]
    assert not path.exists()
    assert world.counter().used == 200
    (certificate,) = await world.outbox.pending(limit=9)
    assert (certificate.details["batch_files"], certificate.details["uploads"]) == (1, 0)


async def test_a_preview_deletes_nothing(world):
    path = world.put(1, age=99 * DAY)
    report = await world.service.preview()
    assert report.is_dry_run
    assert len(report.due) == 1
    assert path.exists()
    assert await world.outbox.pending(limit=9) == []


async def test_old_security_events_are_forgotten(world):
    for number, age in enumerate([400 * DAY, 364 * DAY]):
        event = SecurityEvent(
            id=UUID(int=number),
            event_type=SecurityEventType.AUTHENTICATION_FAILURE,
            severity=ThreatLevel.LOW,
            timestamp=world.clock.now() - age,
        )
        await world.events.add(event)
    assert (await world.service.sweep()).security_events == 1
    assert [event.id.int for event in await world.events.recent(limit=9)] == [1]


async def test_an_upload_that_its_tenant_deleted_meanwhile_is_no_error(world, monkeypatch):
    path = world.put(1, age=99 * DAY)
    preview = world.service.preview

    async def preview_then_vanish():
        report = await preview()
        (path / "model.safetensors").unlink()
        path.rmdir()
        return report

    monkeypatch.setattr(world.service, "preview", preview_then_vanish)
    assert (await world.service.sweep()).due == ()
