"""The status page: its document, made of its sources, and its events."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
from collections.abc import AsyncGenerator
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from segue.gateway.http.door import visit_of
from segue.gateway.http.errors import Failure
from segue.gateway.http.routes import Gateway, Route
from segue.gateway.http.stream import PING, EventStream, event


async def ui(gateway: Gateway, request: Request) -> Response:
    """The status page. It holds no data, and asks for a key if the router has keys."""
    return Response(_page(), headers=_headers())


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


@functools.cache
def _page() -> bytes:
    """page.html with the style and the script in it."""
    text = _source("page.html")
    for mark, part in (("/*style*/", _style()), ("/*script*/", _script())):
        assert text.count(mark) == 1, f"page.html has one {mark}"
        text = text.replace(mark, part)
    return text.encode()


@functools.cache
def _headers() -> dict[str, str]:
    """Only the page's own style and script run, and it may talk to this gateway alone."""
    policy = (
        "default-src 'none'",
        f"script-src '{_hash(_script())}'",
        f"style-src '{_hash(_style())}'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": "; ".join(policy),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


def _style() -> str:
    return _source("page.css")


def _script() -> str:
    return "".join(map(_source, ("cluster.js", "turns.js", "follow.js")))


def _source(name: str) -> str:
    return files("segue.gateway.ui").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


ROUTES = [
    Route(method="GET", path="/ui", answer=ui, needs_key=False),
    Route(method="GET", path="/ui/events", answer=ui_events),
]
