"""The short way to a route and the framework's way give the same answers."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.testclient import TestClient

from tritium.errors import ValidationError
from tritium.protocol.direct import DirectRoutes
from tritium.protocol.envelope import error_envelope
from tritium.protocol.routes import _envelope_route


async def echo(request: Request, **parameters: str) -> Response:
    body = await request.body()
    if body == b"wrong":
        raise ValidationError("The body is wrong.", param="body")
    seen = {"x-route": request.scope["route"].path, "x-query": str(request.query_params), **parameters}
    return Response(body, status_code=201, headers=seen)


def app_with(*, is_direct: bool) -> FastAPI:
    router = APIRouter(prefix="/v1", route_class=_envelope_route(error_envelope))
    router.add_api_route("/echo", echo, methods=["POST"])
    router.add_api_route("/echo", echo, methods=["GET"])
    router.add_api_route("/of/{name}", echo, methods=["POST"])
    app = FastAPI()
    app.include_router(router)
    if is_direct:
        app.add_middleware(DirectRoutes, routes=router.routes)
    return app


@pytest.mark.parametrize("body", [b"text", b"wrong"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/echo"),
        ("POST", "/v1/echo?a=b"),
        ("POST", "/v1/echo/"),
        ("POST", "/v1/of/me"),
        ("POST", "/v1/nothing"),
        ("GET", "/v1/echo"),
        ("PUT", "/v1/echo"),
    ],
)
def test_the_short_way_answers_as_the_framework_does(method, path, body):
    answers = []
    for is_direct in (False, True):
        with TestClient(app_with(is_direct=is_direct)) as client:
            headers = {"x-request-id": "one"}
            answer = client.request(method, path, content=body, headers=headers)
            told = {name: text for name, text in answer.headers.items() if name != "x-request-id"}
            answers.append((answer.status_code, answer.content, told))
    assert answers[0] == answers[1]
