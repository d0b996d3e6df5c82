"""Reads the overview out of a running platform."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from tritium.formats.native import is_native
from tritium.model.pretrained import QuantizedModel
from tritium_platform.audit.checkpoint import open_checkpoint
from tritium_platform.audit.note import NoteVerifier
from tritium_platform.audit.verify import CHECKPOINT
from tritium_platform.console.model import (
    AuditHeadRow,
    BlockRow,
    JobRow,
    LayerRow,
    ModelRow,
    Overview,
    SecurityEventRow,
    TenantRow,
)
from tritium_platform.errors import BitNetServiceError
from tritium_platform.metering.model import Meter
from tritium_platform.serving.model import ReplicaState
from tritium_platform.tenancy.model import ALL_SCOPES, TenantContext
from tritium_platform.values import CalendarMonth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.compose import Platform
    from tritium_platform.serving.job import QuantizationJob
    from tritium_platform.serving.model import Deployment, RegisteredModel
    from tritium_platform.tenancy.model import Tenant

NEWEST_JOBS = 10
NEWEST_LAYERS = 8
NEWEST_EVENTS = 8
TOKEN_METERS = frozenset({Meter.INPUT_TOKENS, Meter.OUTPUT_TOKENS, Meter.EMBEDDING_TOKENS})


class PlatformOverview:
    """An `OverviewSource` over a platform; bits per weight are remembered, for they do not change."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._bits: dict[str, float | None] = {}

    async def read(self) -> Overview:
        """Return the state of the platform at this moment."""
        platform = self._platform
        tenants = await platform.tenancy.list_tenants()
        audit, problem = await asyncio.to_thread(self._read_audit)
        now = platform.clock.now()
        return Overview(
            read_at=now,
            month=str(CalendarMonth.of(now)),
            is_ready=platform.is_ready,
            tenants=tuple([await self._tenant(tenant) for tenant in tenants]),
            models=tuple([row for tenant in tenants for row in await self._models(tenant)]),
            jobs=tuple([row for tenant in tenants for row in await self._jobs(tenant)]),
            security_events=await self._security_events(tenants),
            blocks=tuple(
                BlockRow(address=address, until=until)
                for address, until in platform.security.blocked().items()
            ),
            audit=audit,
            audit_problem=problem,
        )

    async def _tenant(self, tenant: Tenant) -> TenantRow:
        platform = self._platform
        context = TenantContext(
            tenant_id=tenant.id,
            organization_name=tenant.organization_name,
            tier=tenant.tier,
            limits=platform.tenancy.limits_of(tenant),
            key_id="",
            scopes=ALL_SCOPES,
        )
        month = CalendarMonth.of(platform.clock.now())
        quota = await platform.books.quotas.usage_of_month(context)
        storage = await platform.books.quotas.storage.usage(context)
        totals = await platform.books.metering.totals(tenant.id, start=month.start, end=month.end)
        health = await platform.scores.score(tenant.id)
        return TenantRow(
            name=tenant.organization_name,
            tier=tenant.tier.value,
            status=tenant.status.value,
            requests_used=quota.used,
            requests_quota=quota.limit,
            tokens=sum(total.quantity for total in totals if total.meter in TOKEN_METERS),
            storage_used=storage.used,
            storage_quota=storage.limit,
            health=health.score,
        )

    async def _models(self, tenant: Tenant) -> list[ModelRow]:
        deployed = {each.model_id: each for each in await self._platform.deployments.list(tenant.id)}
        rows: list[ModelRow] = []
        for model in await self._platform.registry.list(tenant.id):
            if model.path not in self._bits:
                self._bits[model.path] = await asyncio.to_thread(read_bits_per_weight, Path(model.path))
            rows.append(self._model(tenant, model, deployment=deployed.get(model.id)))
        return rows

    def _model(self, tenant: Tenant, model: RegisteredModel, *, deployment: Deployment | None) -> ModelRow:
        deployments = self._platform.deployments
        statuses = deployments.statuses(deployment) if deployment else []
        bits = self._bits[model.path]
        return ModelRow(
            tenant=tenant.organization_name,
            name=model.name,
            kind=model.kind.value,
            size_bytes=model.size_bytes,
            bits_per_weight=bits,
            report=None if bits is None else f"/console/reports/{tenant.id}/{model.id}",
            state=deployments.state(deployment).value if deployment else "not deployed",
            replicas_ready=sum(status.state is ReplicaState.READY for status in statuses),
            replicas=deployment.replicas if deployment else 0,
        )

    async def _jobs(self, tenant: Tenant) -> list[JobRow]:
        quantizations = self._platform.quantizations
        newest = await quantizations.list(tenant.id, limit=NEWEST_JOBS)
        return [job_row(await quantizations.get(tenant.id, job.id), tenant=tenant) for job in newest]

    async def _security_events(self, tenants: Sequence[Tenant]) -> tuple[SecurityEventRow, ...]:
        names = {tenant.id: tenant.organization_name for tenant in tenants}
        return tuple(
            SecurityEventRow(
                timestamp=event.timestamp,
                event_type=event.event_type.value,
                reason=event.reason,
                source=event.source_ip,
                tenant=names.get(event.tenant_id) if event.tenant_id else None,
                resource=event.resource,
            )
            for event in await self._platform.security.recent(limit=NEWEST_EVENTS)
        )

    def _read_audit(self) -> tuple[AuditHeadRow | None, str | None]:
        vkey = self._platform.verifier_key
        try:
            note = (self._platform.config.audit_dir / CHECKPOINT).read_bytes()
            head = open_checkpoint(note, verifier=NoteVerifier.from_vkey(vkey))
        except FileNotFoundError:
            return None, None
        except (OSError, BitNetServiceError) as error:
            return None, f"The signed head cannot be read: {error}"
        return AuditHeadRow(origin=head.origin, size=head.size, root=head.root.hex(), verifier_key=vkey), None


def job_row(job: QuantizationJob, *, tenant: Tenant) -> JobRow:
    """Return what the overview shows of a job; its newest layers only while it is open."""
    layers = tuple(
        LayerRow(
            name=layer.name,
            strategy=layer.strategy,
            planes=layer.planes,
            loss=layer.loss,
            seconds=layer.seconds,
        )
        for layer in job.layers
    )
    return JobRow(
        tenant=tenant.organization_name,
        model_name=job.model_name,
        source=job.source,
        state=job.state.value,
        is_open=not job.state.is_final,
        finished_layers=len(layers),
        total_layers=job.total_layers,
        error=job.error_message,
        layers=() if job.state.is_final else layers[: -NEWEST_LAYERS - 1 : -1],
    )


def read_bits_per_weight(path: Path) -> float | None:
    """Return the bits per weight of a ternary model's directory; None for any other, or a broken one."""
    try:
        if is_native(path):
            return QuantizedModel.from_pretrained(path, verify=False).bits_per_weight
    except (OSError, BitNetServiceError):
        return None
    return None
