"""Uses that others counted, taken in by the batch: a tenant's own, and for the operator everybody's.

The answer comes after the commit; while the database is away, once events are durable on this machine. Under
(tenant, source, id) an event counts once for ever: the same one again is a duplicate, another one a conflict
(409) that leaves the rest of its batch alone.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from tritium_platform.api.deps import (
    MeteringCaller,
    ThePlatform,
    admin,
    admin_key,
    known_tenant_key,
    recognized,
)
from tritium_platform.api.event_headers import header_parameters, is_binary, read_binary_event
from tritium_platform.api.event_json import EventForm, form_of, read_events, request_schema
from tritium_platform.api.problems import problem_details
from tritium_platform.api.ratelimits import event_headers
from tritium_platform.api.schemas import IngestionOut, RefusedEvent
from tritium_platform.errors import (
    BitNetServiceError,
    RateLimitExceededError,
    RequestTooLargeError,
    ValidationError,
)
from tritium_platform.metering.event import Sender
from tritium_platform.metering.event_writer import Ingested
from tritium_platform.metering.model import LONGEST_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium_platform.compose import Platform
    from tritium_platform.metering.event import ReportedEvent
    from tritium_platform.metering.event_writer import Outcome

PATHS = ("/api/v1/usage/events", "/api/v1/billing/events")
router = APIRouter(prefix="/api/v1/usage", tags=["usage"], dependencies=[known_tenant_key])
operator_router = APIRouter(prefix="/api/v1/billing", tags=["usage"], dependencies=[admin_key, admin])
_BODY = {"requestBody": request_schema(), "parameters": header_parameters()}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    207: {
        "model": IngestionOut,
        "description": "Some are refused, each with its reason; all others are in the books or deferred",
    },
    202: {
        "model": IngestionOut,
        "description": "The database is away: all are durable, and come into the books when it is back",
    },
}


@router.post("/events", openapi_extra=_BODY, responses=_RESPONSES)
async def ingest_events(
    request: Request, response: Response, platform: ThePlatform, _caller: MeteringCaller
) -> IngestionOut:
    """Count uses of the caller; a `tenant_id` may be left out, and is the caller's.

    All that are sent count against the events per minute, duplicates and refused ones, too; what the database
    could not take does not.
    """
    form, reported = await _read(request)
    # Again: a body may take long, and the key be revoked meanwhile.
    context, is_confirmed = await recognized(request, platform)
    sender = Sender(
        tiers={context.tenant_id: context.tier},
        tenant_id=context.tenant_id,
        key_id=context.key_id,
        is_confirmed=is_confirmed,
    )
    try:
        with platform.event_rate.take(context, count=len(reported)) as left:
            request.state.rate_limit_headers = event_headers(left)
            return await _ingest(platform, reported, form=form, sender=sender, response=response)
    except (RateLimitExceededError, RequestTooLargeError):
        request.state.rate_limit_headers = event_headers(platform.event_rate.status(context))
        raise


@operator_router.post("/events", openapi_extra=_BODY, responses=_RESPONSES)
async def ingest_events_of_tenants(
    request: Request, response: Response, platform: ThePlatform
) -> IngestionOut:
    """Count uses of any tenants; each event names its own."""
    form, reported = await _read(request)
    named = {each.tenant_id for each in reported if each.tenant_id is not None}
    tiers, is_confirmed = await platform.tenancy.recognize_tenants(named)
    sender = Sender(tiers=tiers, is_confirmed=is_confirmed)
    return await _ingest(platform, reported, form=form, sender=sender, response=response)


async def _read(request: Request) -> tuple[EventForm, Sequence[ReportedEvent]]:
    content_type, headers = request.headers.get("content-type", ""), request.headers.items()
    is_event = is_binary(headers, content_type=content_type)
    form = EventForm.CLOUD_EVENT if is_event else form_of(content_type)
    try:
        body = await request.body()
    except ClientDisconnect:
        raise ValidationError("The request ended before its body.") from None
    if is_event:
        return form, read_binary_event(body, headers=headers, content_type=content_type)
    return form, await asyncio.to_thread(read_events, body, form=form)


async def _ingest(
    platform: Platform,
    reported: Sequence[ReportedEvent],
    *,
    form: EventForm,
    sender: Sender,
    response: Response,
) -> IngestionOut:
    outcomes = await platform.ingestion.ingest(reported, sender=sender)
    if form is EventForm.CLOUD_EVENT and isinstance(outcomes[0], BitNetServiceError):
        raise outcomes[0]  # who sends one event is told by the status what became of it
    refused = [
        _refused(place, reported[place], error)
        for place, error in enumerate(outcomes)
        if isinstance(error, BitNetServiceError)
    ]
    deferred = _places(outcomes, Ingested.DEFERRED)
    if refused:
        response.status_code = HTTPStatus.MULTI_STATUS
    elif deferred:
        response.status_code = HTTPStatus.ACCEPTED
    return IngestionOut(
        accepted=outcomes.count(Ingested.ACCEPTED),
        duplicates=_places(outcomes, Ingested.DUPLICATE),
        deferred=deferred,
        refused=refused,
    )


def _places(outcomes: Sequence[Outcome], kind: Ingested) -> list[int]:
    return [place for place, each in enumerate(outcomes) if each is kind]


def _refused(place: int, reported: ReportedEvent, error: BitNetServiceError) -> RefusedEvent:
    _, body, _ = problem_details(error)
    names = {"source": reported.source[:LONGEST_NAME], "id": reported.id[:LONGEST_NAME]}
    return RefusedEvent.model_validate({**body, **names, "index": place})
