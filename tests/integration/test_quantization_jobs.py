"""Quantization jobs with a real worker process, killed where it hurts."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import shutil
import signal
import sqlite3
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tritium_test_programs as programs
from dbos import DBOS
from sqlalchemy import select

from tritium.quantize.config import QuantizationConfig
from tritium.quantize.pipeline import quantize_model
from tritium_platform.adapters import jobs as jobs_adapter
from tritium_platform.adapters import worker_process
from tritium_platform.adapters.sql.database import Database
from tritium_platform.adapters.sql.tables.audit import audit_outbox
from tritium_platform.adapters.worker_process import WorkerProcess
from tritium_platform.compose import Platform, initialize_platform
from tritium_platform.compose.worker import initialize_worker
from tritium_platform.config import load_config
from tritium_platform.errors import (
    ConflictError,
    NotFoundError,
    OverloadedError,
    RateLimitExceededError,
    SpendCapReachedError,
    StorageQuotaExceededError,
    ValidationError,
)
from tritium_platform.quotas.spend_cap import MICRO, SpendCap, micro
from tritium_platform.serving import quantization, quantization_work
from tritium_platform.serving.job import JobState, QuantizationJob
from tritium_platform.serving.quantizing import QuantizeModel
from tritium_platform.tenancy.model import Tenant, TenantTier
from tritium_platform.values import CalendarMonth
from tritium_platform.worker import quantization_main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tritium_platform.adapters.jobs import QuantizationWorker

LAYERS = 42
PATIENCE = 270.0


@pytest.fixture(autouse=True)
def _forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork workers: test_quantization_over_http.py and tests/e2e start them from nothing."""

    async def start(*command: str, env: dict[str, str], **_: Any) -> programs.Worker:
        assert command == (sys.executable, "-m", worker_process.MODULE)
        return programs.Worker(env)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)


@dataclass
class Bench:
    """A platform with one tenant and one worker."""

    platform: Platform
    worker: WorkerProcess
    tenant: Tenant
    key: str
    source: Path

    async def ask(
        self, *, name: str = "small", source: dict[str, Any] | None = None, **config: Any
    ) -> QuantizationJob:
        work = QuantizeModel(
            self.platform.quantizations, source=source or {"path": str(self.source)}, name=name, config=config
        )
        passage = await self.platform.gateway.process_customer_request(
            work, token=self.key, request_id="test"
        )
        return await anext(passage)

    async def wait(
        self, job: QuantizationJob, *, until: Callable[[QuantizationJob], bool]
    ) -> QuantizationJob:
        async with asyncio.timeout(PATIENCE):
            while not until(found := await self.platform.quantizations.get(self.tenant.id, job.id)):
                await asyncio.sleep(0.03)
        return found

    async def kill_worker(self) -> None:
        os.kill(self.worker.process_id, signal.SIGKILL)
        restarts = self.worker.restarts
        async with asyncio.timeout(PATIENCE):
            while self.worker.restarts == restarts or self.worker.process_id is None:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def opened_bench(
    directory: Path, *, source: Path, database_url: str | None = None, is_idle: bool = False, **limits: int
) -> AsyncIterator[Bench]:
    flags = {"data_dir": directory, "model_roots": (source.parent,), "log_level": "warning"}
    config = load_config(flags={**flags, "database_url": database_url})
    platform = await initialize_platform(config)
    worker = WorkerProcess(config)
    try:
        tenant = await platform.tenancy.create_tenant(
            organization_name="Acme", tier=TenantTier.DEVELOPER, limit_overrides=limits
        )
        _, key = await platform.tenancy.create_key(tenant.id, name="test")
        if not is_idle:
            await worker.start()
        yield Bench(platform, worker, tenant, key, source)
    finally:
        await worker.stop()
        await platform.stop()


async def actions_of(bench: Bench) -> list[str]:
    """What stands in the outbox, whether it is in the log by now or not."""
    database = Database(bench.platform.config.resolved_database_url)
    async with database.read_books() as connection:
        rows = (await connection.execute(select(audit_outbox.c.entry_json))).scalars().all()
    await database.close()
    return [json.loads(row)["action"] for row in rows]


@asynccontextmanager
async def opened_worker(bench: Bench) -> AsyncIterator[QuantizationWorker]:
    """Work in this process, where a test can reach in."""
    worker = await initialize_worker(bench.platform.config)
    await asyncio.to_thread(worker.launch)
    search = asyncio.create_task(worker.search())
    try:
        yield worker
    finally:
        search.cancel()
        await worker.close()
        DBOS.destroy(destroy_registry=True)
        await worker._jobs._database.close()


async def storage_of(bench: Bench) -> tuple[int, int]:
    context = await bench.platform.gateway.authenticate(bench.key)
    counter = await bench.platform.books.quotas.storage.usage(context)
    return counter.used, counter.held


def is_final(job: QuantizationJob) -> bool:
    return job.state.is_final


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def job_database(request: pytest.FixtureRequest) -> str | None:
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("postgresql_url")
    return url


async def test_a_worker_killed_at_any_layer_finishes_with_the_same_bytes_and_redoes_no_finished_layer(
    tmp_path: Path, scripture_llama: Path, calibration_text: str, held_out_text: str
) -> None:
    texts = {"calibration_text": calibration_text[:4_000], "validation_text": held_out_text[:4_000]}
    async with opened_bench(tmp_path / "data", source=scripture_llama) as bench:
        job = await bench.ask(max_acceptable_loss=0.25, **texts)
        recorded = {}
        for count in (0, 23, LAYERS):
            seen = await bench.wait(
                job, until=lambda found, n=count: len(found.layers) >= n or is_final(found)
            )
            recorded |= {layer.index: layer.seconds for layer in seen.layers}
            await bench.kill_worker()
        done = await bench.wait(job, until=is_final)
        assert done.state is JobState.SUCCEEDED, done.error_message
        assert bench.worker.restarts >= 2
        assert {layer.index: layer.seconds for layer in done.layers if layer.index in recorded} == recorded
        [model] = await bench.platform.registry.list(bench.tenant.id)
        made = files_of(bench.platform.config.models_dir / str(bench.tenant.id) / str(job.id))
    config = QuantizationConfig(max_acceptable_loss=0.25, **texts)
    quantize_model(scripture_llama, config, out=tmp_path / "direct")
    assert model.name == "small"
    assert made == files_of(tmp_path / "direct")


async def test_a_finished_job_is_a_model_a_usage_record_an_audit_entry_and_counted_storage(
    tmp_path: Path, scripture_bitnet_bitlinear: Path, job_database: str | None
) -> None:
    async with opened_bench(tmp_path, source=scripture_bitnet_bitlinear, database_url=job_database) as bench:
        job = await bench.ask()
        done = await bench.wait(job, until=is_final)
        assert done.state is JobState.SUCCEEDED, done.error_message
        platform, tenant = bench.platform, bench.tenant
        context = await platform.gateway.authenticate(bench.key)
        now = platform.clock.now()
        records = await platform.books.metering.list(tenant.id, start=done.created_at, end=now)
        storage = await platform.books.quotas.storage.usage(context)
        actions = await actions_of(bench)
        [model] = await platform.registry.list(tenant.id)
    assert [(record.source, record.event_id) for record in records][-1] == ("quantization", str(job.id))
    assert records[-1].quantities.quantized_parameters == 4_718_592
    assert records[-1].resources.storage_bytes == storage.used
    assert records[-1].resources.network_bytes_transferred == 0  # its source and its result lie here
    assert storage.held == 0
    assert 0 < model.size_bytes <= storage.used
    assert actions.count("quantization.finish") == 1


async def test_a_cancelled_job_stops_gives_its_storage_back_and_leaves_nothing(
    tmp_path: Path, scripture_llama: Path, calibration_text: str
) -> None:
    async with opened_bench(tmp_path, source=scripture_llama) as bench:
        job = await bench.ask(calibration_text=calibration_text, calibration_tokens=4096)
        await bench.wait(job, until=lambda found: bool(found.layers))
        await bench.platform.quantizations.cancel(bench.tenant.id, job.id)
        done = await bench.wait(job, until=is_final)
        context = await bench.platform.gateway.authenticate(bench.key)
        storage = await bench.platform.books.quotas.storage.usage(context)
        again = await bench.platform.quantizations.cancel(bench.tenant.id, job.id)
        models = await bench.platform.registry.list(bench.tenant.id)
        config = bench.platform.config
    assert (done.state, again.state) == (JobState.CANCELLED, JobState.CANCELLED)
    assert (storage.used, storage.held) == (0, 0)
    assert models == []
    assert not (config.jobs_dir / str(job.id)).exists()
    assert not (config.models_dir / str(bench.tenant.id) / str(job.id)).exists()


async def test_a_job_that_was_kept_but_never_handed_over_is_found_by_the_worker(
    tmp_path: Path, scripture_bitnet_bitlinear: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_bench(tmp_path, source=scripture_bitnet_bitlinear) as bench:

        async def crash(job_id: object) -> None:
            raise ConnectionError

        monkeypatch.setattr(bench.platform.job_queue, "enqueue", crash)
        done = await bench.wait(await bench.ask(), until=is_final)
    assert done.state is JobState.SUCCEEDED


async def test_a_source_that_breaks_after_it_was_accepted_fails_the_job_by_name(
    tmp_path: Path, scripture_bitnet_bitlinear: Path
) -> None:
    roots = tmp_path / "roots"
    shutil.copytree(scripture_bitnet_bitlinear, roots / "model")
    async with opened_bench(tmp_path / "data", source=roots / "model", is_idle=True) as bench:
        job = await bench.ask()
        (roots / "model" / "model.safetensors").write_bytes(b"broken")
        await bench.worker.start()
        done = await bench.wait(job, until=is_final)
        context = await bench.platform.gateway.authenticate(bench.key)
        storage = await bench.platform.books.quotas.storage.usage(context)
    assert done.state is JobState.FAILED
    assert done.error_code == "validation"
    assert "model.safetensors" in (done.error_message or "")
    assert (storage.used, storage.held) == (0, 0)


async def test_what_cannot_be_quantized_is_refused_before_anything_is_kept(
    tmp_path: Path, scripture_bitnet_bitlinear: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_bench(tmp_path, source=scripture_bitnet_bitlinear, is_idle=True) as bench:
        with pytest.raises(ValidationError, match="root"):
            await bench.ask(source={"path": "/etc"})
        with pytest.raises(NotFoundError):
            await bench.ask(source={"upload": "00000000-0000-0000-0000-000000000000"})
        with pytest.raises(ValidationError, match="group_size"):
            await bench.ask(group_size=7)
        with pytest.raises(ValidationError, match="calibration_text must be the text itself"):
            await bench.ask(calibration_text={"path": "/etc/passwd"})
        with pytest.raises(ValidationError, match="name"):
            await bench.ask(name="../escape")
        await bench.ask(name="taken")
        with pytest.raises(ConflictError, match="taken"):
            await bench.ask(name="taken")
        monkeypatch.setattr(quantization, "MAX_OPEN", 1)
        with pytest.raises(RateLimitExceededError, match="open quantizations"):
            await bench.ask(name="more")
        [job] = await bench.platform.quantizations.list(bench.tenant.id)
        with pytest.raises(NotFoundError):
            await bench.platform.quantizations.get(job.id, job.id)


async def test_a_result_that_may_not_fit_into_the_tenants_storage_is_refused(
    tmp_path: Path, scripture_bitnet_bitlinear: Path
) -> None:
    async with opened_bench(
        tmp_path, source=scripture_bitnet_bitlinear, is_idle=True, max_storage=1_000_000
    ) as bench:
        with pytest.raises(StorageQuotaExceededError):
            await bench.ask()
        assert await bench.platform.quantizations.list(bench.tenant.id) == []


async def test_what_a_job_costs_is_held_of_the_cap_while_it_runs_and_used_by_the_worker(
    tmp_path: Path, scripture_bitnet_bitlinear: Path, job_database: str | None
) -> None:
    async with opened_bench(
        tmp_path, source=scripture_bitnet_bitlinear, database_url=job_database, is_idle=True
    ) as bench:
        spending, clock = bench.platform.spending, bench.platform.clock
        cap = SpendCap(tenant_id=bench.tenant.id, amount_minor=1, currency="USD")
        await spending.set_cap(cap, spent=0, actor="test")
        job = await bench.ask()
        before = await spending.status(bench.tenant.id)
        assert before is not None
        cost = before.counter.held
        await spending.set_cap(cap, spent=MICRO - cost, actor="test")
        with pytest.raises(SpendCapReachedError):
            await bench.ask(name="another")
        await bench.worker.start()
        done = await bench.wait(job, until=is_final)
        after = await spending.status(bench.tenant.id)
        [use] = [
            each
            for each in await bench.platform.books.metering.list(
                bench.tenant.id, start=job.created_at, end=clock.now()
            )
            if each.source == "quantization"
        ]
        price = await bench.platform.books.billing.price(use, period=CalendarMonth.of(use.occurred_at))
    assert done.state is JobState.SUCCEEDED, done.error_message
    assert 0 < cost == micro(price.total)
    assert after is not None
    assert (after.counter.used, after.counter.held, sorted(after.alerts)) == (MICRO, 0, [50, 80, 100])


@pytest.mark.parametrize(("failures", "state"), [(1, JobState.SUCCEEDED), (10**9, JobState.FAILED)])
async def test_a_run_that_breaks_off_is_repeated_and_a_job_that_always_breaks_off_ends(
    tmp_path: Path,
    scripture_bitnet_bitlinear: Path,
    monkeypatch: pytest.MonkeyPatch,
    failures: int,
    state: JobState,
) -> None:
    calls = []
    real = quantization_work.quantize_layer

    def flaky(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        if len(calls) <= failures:
            raise OverloadedError("A neighbour is away.")
        return real(*arguments)

    monkeypatch.setattr(jobs_adapter, "ATTEMPTS", 1)
    monkeypatch.setattr(jobs_adapter, "SEARCH_SECONDS", 0.1)
    monkeypatch.setattr(quantization_work, "quantize_layer", flaky)
    async with opened_bench(tmp_path, source=scripture_bitnet_bitlinear, is_idle=True) as bench:
        async with opened_worker(bench):
            job = await bench.ask()
            done = await bench.wait(job, until=is_final)
        used, held = await storage_of(bench)
        config = bench.platform.config
    assert done.state is state
    assert held == 0
    if state is JobState.FAILED:
        assert len(calls) == jobs_adapter.RUNS
        assert (done.error_code, done.error_recovery) == ("platform", "contact_operator")
        assert used == 0
    assert not (config.jobs_dir / str(job.id)).exists()


async def test_a_job_that_kills_every_worker_is_given_up(
    tmp_path: Path, scripture_bitnet_bitlinear: Path
) -> None:
    async with opened_bench(tmp_path, source=scripture_bitnet_bitlinear, is_idle=True) as bench:
        job = await bench.ask()
        with sqlite3.connect(tmp_path / "jobs.sqlite3") as notes:  # as DBOS notes it after too many deaths
            notes.execute("UPDATE workflow_status SET status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'")
        notes.close()
        await bench.worker.start()
        done = await bench.wait(job, until=is_final)
        assert await storage_of(bench) == (0, 0)
    assert (done.state, done.error_recovery) == (JobState.FAILED, "contact_operator")


async def test_every_step_done_twice_as_after_a_crash_has_the_effects_of_once(
    tmp_path: Path, scripture_bitnet_bitlinear: Path
) -> None:
    async with opened_bench(tmp_path, source=scripture_bitnet_bitlinear, is_idle=True) as bench:
        job = await bench.ask()
        work = (await initialize_worker(bench.platform.config))._work
        assert await work.plan(job.id) == await work.plan(job.id)
        for index in range(LAYERS):
            assert await work.layer(job.id, index) == await work.layer(job.id, index)
        assert await work.assemble(job.id) == await work.assemble(job.id) == {}
        assert await work.finish(job.id) == {"model": "small"}
        assert await work.finish(job.id) == {"stopped": "succeeded"}
        assert await work.stop(job.id, {"stopped": "failed"}) == {"stopped": "failed"}
        await work._books.jobs._database.close()
        done = await bench.platform.quantizations.get(bench.tenant.id, job.id)
        now = bench.platform.clock.now()
        records = await bench.platform.books.metering.list(bench.tenant.id, start=job.created_at, end=now)
        actions = await actions_of(bench)
        used, held = await storage_of(bench)
        [model] = await bench.platform.registry.list(bench.tenant.id)
    assert done.state is JobState.SUCCEEDED
    assert [record.source for record in records].count("quantization") == 1
    assert actions.count("quantization.finish") == 1
    assert (used, held) == (sum(map(len, files_of(Path(model.path)).values())), 0)


async def test_files_that_a_crash_left_of_a_forgotten_model_go_at_the_next_start(
    tmp_path: Path, scripture_bitnet_bitlinear: Path
) -> None:
    async with opened_bench(tmp_path, source=scripture_bitnet_bitlinear) as bench:
        kept = await bench.ask()
        gone = await bench.ask(name="gone")
        await bench.wait(gone, until=is_final)
        await bench.wait(kept, until=is_final)
        model = await bench.platform.registry.remove(bench.tenant.id, "gone")
        with pytest.raises(NotFoundError):
            await bench.platform.registry.remove(bench.tenant.id, "gone")
        await bench.platform.quantizations.release(model)
        assert Path(model.path).is_dir()
        await bench.kill_worker()
        async with asyncio.timeout(PATIENCE):
            while list(Path(model.path).parent.iterdir()) != [Path(model.path).with_name(str(kept.id))]:
                await asyncio.sleep(0.05)
        [left] = await bench.platform.registry.list(bench.tenant.id)
        used, _ = await storage_of(bench)
    assert used == sum(map(len, files_of(Path(left.path)).values()))


@pytest.mark.parametrize("moment", ["waiting", "planned", "assembled"])
async def test_a_cancellation_at_any_moment_closes_the_job_once_and_leaves_nothing(
    tmp_path: Path, scripture_bitnet_bitlinear: Path, moment: str
) -> None:
    async with opened_bench(tmp_path, source=scripture_bitnet_bitlinear, is_idle=True) as bench:
        job = await bench.ask()
        work = (await initialize_worker(bench.platform.config))._work
        if moment != "waiting":
            await work.plan(job.id)
        if moment == "assembled":
            for index in range(LAYERS):
                await work.layer(job.id, index)
            await work.assemble(job.id)
        cancelled = await bench.platform.quantizations.cancel(bench.tenant.id, job.id)
        result = await (work.plan(job.id) if moment == "waiting" else work.finish(job.id))
        assert result["stopped"] == "cancelled"
        for _ in range(2):
            await work.stop(job.id, result)
        await work._books.jobs._database.close()
        done = await bench.platform.quantizations.get(bench.tenant.id, job.id)
        assert await storage_of(bench) == (0, 0)
        assert await bench.platform.registry.list(bench.tenant.id) == []
        config = bench.platform.config
    assert cancelled.state is (JobState.CANCELLED if moment == "waiting" else JobState.CANCELLING)
    assert (done.state, done.finished_at is not None) == (JobState.CANCELLED, True)
    assert not list(config.jobs_dir.glob("*-*"))
    assert not list(config.models_dir.glob("*/*"))


async def test_a_full_disk_fails_the_job_says_what_to_do_and_leaves_nothing_half_written(
    tmp_path: Path, scripture_bitnet_bitlinear: Path
) -> None:
    async with opened_bench(tmp_path, source=scripture_bitnet_bitlinear) as bench:
        # Every layer fits, the whole model (3.1 MB) does not.
        resource.prlimit(bench.worker.process_id, resource.RLIMIT_FSIZE, (2_900_000, 2_900_000))
        job = await bench.ask()
        done = await bench.wait(job, until=is_final)
        assert await storage_of(bench) == (0, 0)
        assert await bench.platform.registry.list(bench.tenant.id) == []
        config = bench.platform.config
    assert (done.state, len(done.layers)) == (JobState.FAILED, LAYERS)
    assert (done.error_code, done.error_recovery) == ("resource", "upgrade_storage")
    assert "free space" in (done.error_message or "")
    assert not list(config.jobs_dir.glob("*-*"))
    assert not list(config.models_dir.glob("*/*"))


async def test_a_second_worker_waits_until_the_first_is_gone_and_leaves_when_told(tmp_path: Path) -> None:
    (tmp_path / "worker.lock").touch()
    with (tmp_path / "worker.lock").open("rb") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        stopped = asyncio.Event()
        told = asyncio.create_task(quantization_main._take_turn(tmp_path, stopped=stopped))
        waiting = asyncio.create_task(quantization_main._take_turn(tmp_path, stopped=asyncio.Event()))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        stopped.set()
        assert not await told
    assert await asyncio.wait_for(waiting, PATIENCE)
