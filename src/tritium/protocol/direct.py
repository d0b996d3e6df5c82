"""The short way to routes that read the request themselves: one look at the path, no layers on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.routing import APIRoute

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send


class DirectRoutes:
    """Stands before a router and serves POST requests to its fixed paths; everything else goes on to it.

    For routes with nothing to inject whose handlers answer every error, such as those of `build_router`: what
    a framework does between its middleware and a handler does nothing for them and takes longer than they do.
    """

    def __init__(self, app: ASGIApp, *, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = {
            route.path: (route, route.get_route_handler())
            for route in routes
            if isinstance(route, APIRoute) and route.methods == {"POST"} and not route.param_convertors
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._routes:
            return self._serve(scope, receive, send)
        return self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"], answer = self._routes[scope["path"]]
        response = await answer(Request(scope, receive, send))
        await response(scope, receive, send)
