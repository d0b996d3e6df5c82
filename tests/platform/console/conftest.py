from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import httpx2
import pytest
from fastapi import FastAPI

from tritium_platform.adapters.memory.clock import ManualClock
from tritium_platform.console.model import (
    AuditHeadRow,
    BlockRow,
    CustomerPage,
    CustomerRow,
    JobRow,
    LayerRow,
    ModelRow,
    Overview,
    SecurityEventRow,
    SpendPage,
    TenantRow,
)
from tritium_platform.console.pages import build_console
from tritium_platform.console.session import ConsoleSessions
from tritium_platform.errors import NotFoundError

ADMIN_KEY = "btn_admin_" + "7" * 64


class FixedSource:
    """Shows what a test puts in, or fails as a test wants."""

    def __init__(self, overview: Overview) -> None:
        self.overview = overview
        self.error: Exception | None = None

    async def read(self) -> Overview:
        if self.error is not None:
            raise self.error
        return self.overview

    async def customers(self) -> list[CustomerRow]:
        if self.error is not None:
            raise self.error
        return []

    async def customer(self, tenant_id: UUID) -> CustomerPage:
        raise NotFoundError("There is no such tenant.")

    async def spending(self) -> SpendPage:
        if self.error is not None:
            raise self.error
        return SpendPage(period="2026-11", rows=(), num_without_cap=0)


TENANT, MODEL = UUID(int=1), UUID(int=2)


class FixedReports:
    """Has the report of one model, or fails as a test wants."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def read(self, tenant_id: UUID, model_id: UUID) -> str:
        if self.error is not None:
            raise self.error
        if (tenant_id, model_id) != (TENANT, MODEL):
            raise NotFoundError("There is no such model.", kind="model")
        return "<!doctype html><title>the report</title>"


@pytest.fixture
def reports():
    return FixedReports()


@pytest.fixture
def admin_key():
    return ADMIN_KEY


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def source():
    layers = (LayerRow(name="model.layers.0.q_proj", strategy="standard", planes=2, loss=0.125, seconds=1.5),)
    return FixedSource(
        Overview(
            read_at=datetime(2026, 11, 23, 12, 30, tzinfo=UTC),
            month="2026-11",
            is_ready=True,
            tenants=(
                TenantRow(
                    name="<script>alert(1)</script>",
                    tier="team",
                    status="active",
                    requests_used=1234,
                    requests_quota=1_000_000,
                    tokens=56_789,
                    storage_used=1_500_000,
                    storage_quota=100_000_000_000,
                    health=97,
                ),
            ),
            models=(
                ModelRow(
                    tenant="Acme",
                    name="small",
                    kind="generate",
                    size_bytes=4_630_000,
                    bits_per_weight=1.85,
                    state="ready",
                    replicas_ready=1,
                    replicas=2,
                    report=f"/console/reports/{TENANT}/{MODEL}",
                ),
            ),
            jobs=(
                JobRow(
                    tenant="Acme",
                    model_name="small",
                    source="path: /models/llama",
                    state="running",
                    is_open=True,
                    finished_layers=1,
                    total_layers=28,
                    error=None,
                    layers=layers,
                ),
            ),
            security_events=(
                SecurityEventRow(
                    timestamp=datetime(2026, 11, 23, 12, 29, 58, tzinfo=UTC),
                    event_type="authentication_failure",
                    reason="invalid_token",
                    source="192.0.2.7",
                    tenant=None,
                    resource="/v1/<i>models</i>",
                ),
            ),
            blocks=(BlockRow(address="192.0.2.8", until=datetime(2026, 11, 23, 12, 45, tzinfo=UTC)),),
            audit=AuditHeadRow(
                origin="audit.test", size=4321, root="ab" * 32, verifier_key="audit.test+00+AA"
            ),
        )
    )


@pytest.fixture
async def browser(source, reports, clock):
    """A client of an application with nothing but the console."""
    app = FastAPI()
    sessions = ConsoleSessions(ADMIN_KEY)
    app.include_router(
        build_console(
            source, customers=source, spending=source, reports=reports, sessions=sessions, clock=clock
        )
    )
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://console.test") as client:
        yield client


@pytest.fixture
async def operator(browser):
    """The same client, logged in."""
    answer = await browser.post("/console/login", content=f"key={ADMIN_KEY}")
    assert answer.status_code == 303
    return browser
