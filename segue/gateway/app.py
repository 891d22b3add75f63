"""The ASGI application: all routes, behind the middleware of `door.py`."""

from __future__ import annotations

import functools
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from segue.gateway.anthropic.routes import ROUTES as ANTHROPIC
from segue.gateway.http.door import Door
from segue.gateway.http.errors import failure_of_status
from segue.gateway.http.fields import Body
from segue.gateway.http.routes import Endpoint, Gateway, Route, failure_response
from segue.gateway.openai.routes import ROUTES as OPENAI
from segue.gateway.ui.routes import ROUTES as UI
from segue.gateway.upkeep import ROUTES as UPKEEP
from segue.process.metrics_endpoint import version

# Keys whose gateway is remembered, and with it the model's name, which each request needs.
_MAX_KEYS = 1024

ROUTES: list[Route] = [*OPENAI, *ANTHROPIC, *UPKEEP, *UI]


def make_app(gateway: Gateway) -> ASGIApp:
    app = FastAPI(
        title="Segue",
        version=version(),
        redoc_url=None,
        exception_handlers={HTTPException: _refused_by_a_route},
        # Routes read bodies themselves: FastAPI would accept one of any size.
        redirect_slashes=False,
    )
    of_key = functools.lru_cache(_MAX_KEYS)(gateway.with_key)
    direct = _Direct(app)
    for route in ROUTES:
        endpoint = route.endpoint(gateway, of_key)
        direct.add(route, endpoint)
        app.add_api_route(
            route.path,
            endpoint,
            methods=[route.method],
            response_model=None,
            summary=(route.answer.__doc__ or "").partition("\n")[0] or None,
            operation_id=route.answer.__name__,
            openapi_extra=_request_body(route.body) if route.body else None,
        )
    return Door(direct, gateway.metrics, gateway.tracer)


class _Direct:
    """Calls routes without path parameters directly. FastAPI's layers would cost time for each
    request and each event of its answer. FastAPI knows these routes too: it documents them, and
    refuses unknown ones.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._routes: dict[tuple[str, str], tuple[Route, Endpoint]] = {}

    def add(self, route: Route, endpoint: Endpoint) -> None:
        if "{" not in route.path:
            self._routes[route.method, route.path] = route, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._routes.get((scope["method"], scope["path"]))
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"], endpoint = found
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)


async def _refused_by_a_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = _allowed(request)
    failure = failure_of_status(error.status_code, request.method, request.url.path, allowed)
    response = failure_response(request, failure)
    response.headers.update(error.headers or {})
    if allowed:
        response.headers["Allow"] = ", ".join(allowed)
    return response


def _allowed(request: Request) -> list[str]:
    """The methods of the request's path. The error has only those of its first route."""
    return sorted(
        method
        for route in request.app.routes
        if route.matches(request.scope)[0] is Match.PARTIAL
        for method in route.methods
    )


@functools.cache
def _request_body(kind: type[Body]) -> dict[str, Any]:
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
