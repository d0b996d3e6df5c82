"""Quantization jobs with a real worker process, killed where it hurts."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tritium.quantize.config import QuantizationConfig
from tritium.quantize.pipeline import quantize_model
from tritium_platform.adapters.worker_process import WorkerProcess
from tritium_platform.compose import Platform, initialize_platform
from tritium_platform.config import load_config
from tritium_platform.errors import ConflictError, NotFoundError, StorageQuotaExceededError, ValidationError
from tritium_platform.serving.job import JobState, QuantizationJob
from tritium_platform.serving.quantization import QuantizeModel
from tritium_platform.tenancy.model import Tenant, TenantTier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

LAYERS = 42
PATIENCE = 120.0


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
                await asyncio.sleep(0.01)
        return found

    async def kill_worker(self) -> None:
        os.kill(self.worker.process_id, signal.SIGKILL)
        restarts = self.worker.restarts
        async with asyncio.timeout(PATIENCE):
            while self.worker.restarts == restarts or self.worker.process_id is None:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def opened_bench(directory: Path, *, source: Path, **limits: int) -> AsyncIterator[Bench]:
    config = load_config(
        flags={"data_dir": directory, "model_roots": (source.parent,), "log_level": "warning"}
    )
    platform = await initialize_platform(config)
    worker = WorkerProcess(config)
    try:
        tenant = await platform.tenancy.create_tenant(
            organization_name="Acme", tier=TenantTier.DEVELOPER, limit_overrides=limits
        )
        _, key = await platform.tenancy.create_key(tenant.id, name="test")
        await worker.start()
        yield Bench(platform, worker, tenant, key, source)
    finally:
        await worker.stop()
        await platform.stop()


def is_final(job: QuantizationJob) -> bool:
    return job.state.is_final


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def test_a_worker_killed_at_any_layer_finishes_with_the_same_bytes_and_redoes_no_finished_layer(
    tmp_path: Path, scripture_llama: Path, calibration_text: str, held_out_text: str
) -> None:
    texts = {"calibration_text": calibration_text[:4_000], "validation_text": held_out_text[:4_000]}
    async with opened_bench(tmp_path / "data", source=scripture_llama) as bench:
        job = await bench.ask(max_acceptable_loss=0.25, **texts)
        recorded = {}
        for count in (0, 1, 23, LAYERS):
            seen = await bench.wait(
                job, until=lambda found, n=count: len(found.layers) >= n or is_final(found)
            )
            recorded |= {layer.index: layer.seconds for layer in seen.layers}
            await bench.kill_worker()
        done = await bench.wait(job, until=is_final)
        assert done.state is JobState.SUCCEEDED, done.error_message
        assert bench.worker.restarts >= 3
        assert {layer.index: layer.seconds for layer in done.layers if layer.index in recorded} == recorded
        [model] = await bench.platform.registry.list(bench.tenant.id)
        made = files_of(bench.platform.config.models_dir / str(bench.tenant.id) / str(job.id))
    config = QuantizationConfig(max_acceptable_loss=0.25, **texts)
    quantize_model(scripture_llama, config, out=tmp_path / "direct")
    assert model.name == "small"
    assert made == files_of(tmp_path / "direct")


async def test_a_finished_job_is_a_model_a_usage_record_an_audit_entry_and_counted_storage(
    tmp_path: Path, scripture_bitnet_bitlinear: Path
) -> None:
    async with opened_bench(tmp_path, source=scripture_bitnet_bitlinear) as bench:
        job = await bench.ask()
        done = await bench.wait(job, until=is_final)
        assert done.state is JobState.SUCCEEDED, done.error_message
        platform, tenant = bench.platform, bench.tenant
        context = await platform.gateway.authenticate(bench.key)
        now = platform.clock.now()
        records = await platform.books.metering.list(tenant.id, start=done.created_at, end=now)
        storage = await platform.books.quotas.usage_of_storage(context)
        pending = await platform.books.outbox.pending(limit=100)
        [model] = await platform.registry.list(tenant.id)
    assert [(record.source, record.event_id) for record in records][-1] == ("quantization", str(job.id))
    assert records[-1].quantities.quantized_parameters == 4_718_592
    assert records[-1].resources.storage_bytes == storage.used
    assert storage.held == 0
    assert 0 < model.size_bytes <= storage.used
    assert "quantization.finish" in [intent.action for intent in pending]


async def test_a_cancelled_job_stops_gives_its_storage_back_and_leaves_nothing(
    tmp_path: Path, scripture_llama: Path, calibration_text: str
) -> None:
    async with opened_bench(tmp_path, source=scripture_llama) as bench:
        job = await bench.ask(calibration_text=calibration_text, calibration_tokens=4096)
        await bench.wait(job, until=lambda found: bool(found.layers))
        await bench.platform.quantizations.cancel(bench.tenant.id, job.id)
        done = await bench.wait(job, until=is_final)
        context = await bench.platform.gateway.authenticate(bench.key)
        storage = await bench.platform.books.quotas.usage_of_storage(context)
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
    async with opened_bench(tmp_path / "data", source=roots / "model") as bench:
        await bench.worker.stop()
        job = await bench.ask()
        (roots / "model" / "model.safetensors").write_bytes(b"broken")
        await bench.worker.start()
        done = await bench.wait(job, until=is_final)
        context = await bench.platform.gateway.authenticate(bench.key)
        storage = await bench.platform.books.quotas.usage_of_storage(context)
    assert done.state is JobState.FAILED
    assert done.error_code == "validation"
    assert "model.safetensors" in (done.error_message or "")
    assert (storage.used, storage.held) == (0, 0)


async def test_what_cannot_be_quantized_is_refused_before_anything_is_kept(
    tmp_path: Path, scripture_bitnet_bitlinear: Path
) -> None:
    async with opened_bench(tmp_path, source=scripture_bitnet_bitlinear) as bench:
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
        await bench.worker.stop()
        await bench.ask(name="taken")
        with pytest.raises(ConflictError, match="taken"):
            await bench.ask(name="taken")
        [job] = await bench.platform.quantizations.list(bench.tenant.id)
        with pytest.raises(NotFoundError):
            await bench.platform.quantizations.get(job.id, job.id)


async def test_a_result_that_may_not_fit_into_the_tenants_storage_is_refused(
    tmp_path: Path, scripture_bitnet_bitlinear: Path
) -> None:
    async with opened_bench(tmp_path, source=scripture_bitnet_bitlinear, max_storage=1_000_000) as bench:
        with pytest.raises(StorageQuotaExceededError):
            await bench.ask()
        assert await bench.platform.quantizations.list(bench.tenant.id) == []
