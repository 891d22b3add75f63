"""The status page's routes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from segue.gateway.http.door import visit_of
from segue.gateway.http.errors import Failure
from segue.gateway.http.routes import Gateway, Route
from segue.gateway.http.stream import PING, EventStream, event
from segue.gateway.ui.page import headers, page


async def ui(gateway: Gateway, request: Request) -> Response:
    """The status page. It holds no data, and asks for a key if the router has keys."""
    return Response(page(), headers=headers())


async def ui_events(gateway: Gateway, request: Request) -> ASGIApp:
    """The status document and the caller's recent turns, once a second, as server-sent events."""
    return EventStream(
        _events(gateway, visit_of(request.scope).api_key()),
        lambda failure: event("error", _failed(failure)),
        waiting=lambda: PING,
        ping_s=gateway.config.ping_s,
    )


async def _events(gateway: Gateway, key: str) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(gateway.feed.documents(key, gateway.client)) as documents:
        async for document in documents:
            yield b"event: status\ndata: " + document + b"\n\n"


def _failed(failure: Failure) -> dict[str, object]:
    return {"status": failure.status, **failure.openai()}


ROUTES = [
    Route(method="GET", path="/ui", answer=ui, needs_key=False),
    Route(method="GET", path="/ui/events", answer=ui_events),
]
