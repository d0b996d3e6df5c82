"""Where payment providers tell that something happened: proven by signature, kept once, dealt with later."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from tritium_platform.api.deps import ThePlatform
from tritium_platform.api.middleware import NOTICES
from tritium_platform.errors import NotFoundError, ValidationError

router = APIRouter(include_in_schema=False)


@router.post(NOTICES)
async def receive_notice(platform: ThePlatform, request: Request) -> Response:
    """Keep a notice of Stripe; 200 means that it is committed, and anything else that it left nothing."""
    if platform.stripe is None:
        raise NotFoundError("There is nothing at this address.")
    try:
        body = await request.body()
    except ClientDisconnect:
        raise ValidationError("The request ended before its body.") from None
    event = platform.stripe.read_event(body, signature=request.headers.get("stripe-signature", ""))
    await platform.desk.payments.inbox.receive(event)
    return Response(status_code=200)
