"""The overview of a real platform: its database, its files, its audit log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx2
import pytest

from tritium.quantize import quantize_model
from tritium_platform.api.app import create_app
from tritium_platform.compose import initialize_platform
from tritium_platform.config import PlatformConfig
from tritium_platform.console.customers import PlatformCustomers
from tritium_platform.console.pages import build_console
from tritium_platform.console.reads import PlatformOverview, job_row, read_bits_per_weight
from tritium_platform.console.reports import PlatformReports
from tritium_platform.console.session import ConsoleSessions
from tritium_platform.console.spending import PlatformSpending
from tritium_platform.errors import NotFoundError, ValidationError
from tritium_platform.insight.health import OutcomeKind
from tritium_platform.quotas.spend_cap import MICRO, SpendCap, SpendMode
from tritium_platform.serving.job import JobLayer, JobState, QuantizationJob
from tritium_platform.serving.model import ModelKind
from tritium_platform.tenancy.model import Tenant, TenantTier

if TYPE_CHECKING:
    from pathlib import Path

    from tritium_platform.console.model import JobRow
from uuid import UUID


@pytest.fixture
async def platform(tmp_path):
    platform = await initialize_platform(PlatformConfig(data_dir=tmp_path / "data"))
    yield platform
    await platform.stop()


async def test_an_empty_platform_has_an_overview(platform):
    overview = await PlatformOverview(platform).read()
    assert (overview.tenants, overview.models, overview.jobs) == ((), (), ())
    assert overview.audit.size == 0
    assert overview.audit_problem is None


async def test_tenants_and_models_are_shown_with_their_real_figures(platform, scripture_llama: Path):
    tenant = await platform.tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM)
    await platform.registry.add(
        tenant.id, name="dense", path=scripture_llama, kind=ModelKind.GENERATE, size=123, source="path"
    )
    overview = await PlatformOverview(platform).read()
    (row,) = overview.tenants
    assert (row.name, row.tier, row.requests_used, row.requests_quota) == ("Acme", "team", 0, 1_000_000)
    (model,) = overview.models
    assert (model.name, model.size_bytes, model.bits_per_weight) == ("dense", 123, None)
    assert model.state == "not deployed"


async def test_a_damaged_audit_head_is_reported(platform):
    checkpoint = platform.config.audit_dir / "checkpoint"
    checkpoint.write_bytes(checkpoint.read_bytes().replace(b"\n0\n", b"\n9\n"))
    overview = await PlatformOverview(platform).read()
    assert overview.audit is None
    assert "signature" in overview.audit_problem


async def test_the_console_of_a_platform_answers_in_its_application(platform):
    app = create_app(platform)
    app.include_router(
        build_console(
            PlatformOverview(platform),
            customers=PlatformCustomers(platform),
            spending=PlatformSpending(platform),
            reports=PlatformReports(platform),
            sessions=ConsoleSessions(platform.admin_token),
            clock=platform.clock,
        )
    )
    tenant = await platform.tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM)
    for _ in range(3):
        await platform.books.health.update_health(tenant.id, kind=OutcomeKind.SUCCESS, latency_ms=70)
    await platform.books.health.update_health(tenant.id, kind=OutcomeKind.FAILED, latency_ms=70)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://console.test") as client:
        await client.post("/console/login", content=f"key={platform.admin_token}")
        assert "Acme" in (await client.get("/console")).text
        listed = (await client.get("/console/customers")).text
        assert f'<a href="/console/customers/{tenant.id}">Acme</a>' in listed
        assert "<td>success</td>" in listed  # costs most points
        shown = (await client.get(f"/console/customers/{tenant.id}")).text
        assert "75.00 %" in shown
        assert "p95 128 ms" in shown
        assert "3 success, 1 failed" in shown
        unknown = await client.get(f"/console/customers/{UUID(int=7)}")
        assert (unknown.status_code, "There is no such tenant" in unknown.text) == (404, True)
        assert (await client.get("/console/static/nothing")).status_code == 404
        assert (await client.post("/console/login", content="key=" + "x" * 5000)).status_code == 422


async def test_caps_are_shown_with_what_the_month_came_to_the_nearest_first(platform):
    async def capped(name, *, minor, spent, mode=SpendMode.ENFORCE):
        tenant = await platform.tenancy.create_tenant(organization_name=name, tier=TenantTier.TEAM)
        cap = SpendCap(tenant_id=tenant.id, amount_minor=minor, currency="USD", mode=mode)
        await platform.spending.set_cap(cap, spent=spent, actor="test")
        return tenant

    calm = await capped("Calm", minor=100_000, spent=12_340_000)
    near = await capped("Near & dear", minor=1_000, spent=800_000_001)
    await capped("Beyond", minor=10, spent=25 * MICRO, mode=SpendMode.SHADOW)
    await platform.tenancy.create_tenant(organization_name="Free", tier=TenantTier.TEAM)
    page = await PlatformSpending(platform).spending()
    assert [(row.name, row.percent, row.mode) for row in page.rows] == [
        ("Beyond", 250, "shadow"),
        ("Near & dear", 80, "enforce"),
        ("Calm", 0, "enforce"),
    ]
    beyond, second, _ = page.rows
    assert (str(second.used), str(second.remaining), second.held.minor) == ("8.01 USD", "1.99 USD", 0)
    assert beyond.remaining.minor == 0
    assert [[alert.threshold for alert in row.alerts] for row in page.rows] == [[50, 80, 100], [50, 80], []]
    assert page.num_without_cap == 1
    app = create_app(platform)
    app.include_router(
        build_console(
            PlatformOverview(platform),
            customers=PlatformCustomers(platform),
            spending=PlatformSpending(platform),
            reports=PlatformReports(platform),
            sessions=ConsoleSessions(platform.admin_token),
            clock=platform.clock,
        )
    )
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://console.test") as client:
        stranger = await client.get("/console/spending")
        assert (stranger.status_code, stranger.headers["location"]) == (303, "/console/login")
        await client.post("/console/login", content=f"key={platform.admin_token}")
        assert 'href="/console/spending"' in (await client.get("/console")).text
        shown = (await client.get("/console/spending")).text
        assert f'<a href="/console/customers/{near.id}">Near &amp; dear</a>' in shown
        assert '<meter value="80" max="100"' in shown
        assert "1 tenant has no cap" in shown
        await platform.spending.remove_cap(calm.id, actor="test")
        assert "Calm" not in (await client.get("/console/spending")).text


async def test_the_report_of_a_ternary_model_is_the_page_of_its_quantization(
    platform, scripture_llama: Path, tmp_path
):
    quantize_model(scripture_llama, out=tmp_path / "small")
    reports = PlatformReports(platform)
    tenant = await platform.tenancy.create_tenant(organization_name="Acme", tier=TenantTier.TEAM)
    made = [
        await platform.registry.add(
            tenant.id, name=path.name, path=path, kind=ModelKind.GENERATE, size=123, source="path"
        )
        for path in (tmp_path / "small", scripture_llama)
    ]
    rows = (await PlatformOverview(platform).read()).models
    assert [row.report for row in rows] == [f"/console/reports/{tenant.id}/{made[0].id}", None]
    page = await reports.read(tenant.id, made[0].id)
    assert "quantization report" in page
    assert "model.layers.0.self_attn.q_proj" in page
    with pytest.raises(NotFoundError, match="not quantized here"):
        await reports.read(tenant.id, made[1].id)
    with pytest.raises(NotFoundError, match="no such model"):
        await reports.read(UUID(int=9), made[0].id)
    manifest = json.loads((tmp_path / "small" / "tritium.json").read_text())
    manifest["metrics"] = {"parameters": "many"}
    (tmp_path / "small" / "tritium.json").write_text(json.dumps(manifest))
    with pytest.raises(ValidationError, match="altered"):
        await reports.read(tenant.id, made[0].id)


def test_what_is_no_model_has_no_bits_per_weight(tmp_path):
    assert read_bits_per_weight(tmp_path) is None
    assert read_bits_per_weight(tmp_path / "nowhere") is None
    (tmp_path / "tritium.json").write_text("{")
    assert read_bits_per_weight(tmp_path) is None


def test_an_open_job_shows_its_newest_layers_and_a_finished_one_none(clock):
    def shown(count: int, state: JobState) -> JobRow:
        layers = [
            JobLayer(index=n, name=f"{n}", strategy="s", planes=1, loss=0, seconds=0) for n in range(count)
        ]
        job = QuantizationJob(
            id=UUID(int=1),
            tenant_id=UUID(int=2),
            tier=TenantTier.TEAM,
            key_id="K",
            source="path: x",
            source_path="x",
            model_name="m",
            config={},
            storage_reservation=UUID(int=3),
            storage_bytes=0,
            created_at=clock.now(),
            state=state,
            layers=tuple(layers),
        )
        tenant = Tenant(UUID(int=2), "Acme", TenantTier.TEAM, clock.now())
        return job_row(job, tenant=tenant)

    assert [layer.name for layer in shown(20, JobState.RUNNING).layers] == [f"{n}" for n in range(19, 11, -1)]
    assert [layer.name for layer in shown(2, JobState.RUNNING).layers] == ["1", "0"]
    assert shown(0, JobState.QUEUED).layers == ()
    assert shown(20, JobState.SUCCEEDED).layers == ()
    assert shown(20, JobState.SUCCEEDED).finished_layers == 20
