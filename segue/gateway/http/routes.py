"""Routes, what they share, and their responses in the form of their API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from segue.api.cluster.status import ModelInfo
from segue.api.errors import Cancelled
from segue.gateway.config import GatewayConfig
from segue.gateway.http.door import visit_of
from segue.gateway.http.errors import Failure
from segue.gateway.http.fields import Body, Kind, read
from segue.gateway.http.origin import require_no_foreign_page
from segue.gateway.metrics import GatewayMetrics
from segue.gateway.served import ServedModelCache
from segue.gateway.stored import StoredResponses
from segue.gateway.turns import Turns
from segue.gateway.ui.feed import Feed
from segue.process.tracing.tracer import OFF, Tracer
from segue.sdk.client import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Shared by all routes."""

    config: GatewayConfig
    client: Client
    served: ServedModelCache
    turns: Turns
    stored: StoredResponses
    metrics: GatewayMetrics
    drain_asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by an operator: the gateway finishes its requests, and the process exits."""
    serves_since: float = field(default_factory=time.monotonic)
    feed: Feed = field(default_factory=Feed)
    tracer: Tracer = OFF

    async def read(self, request: Request, kind: type[Kind]) -> tuple[Kind, ModelInfo]:
        """The request's body, and the model that it names. Raises InvalidRequest, UnknownModel."""
        body = await read(request, kind, self.config.max_body_bytes)
        return body, await self.served.named(body.model)

    def with_key(self, key: str) -> Gateway:
        """This gateway for the owner of an API key, which is empty if there is none: the router
        decides what the key may do. All share one connection."""
        client = self.client.with_key(key or None)
        return replace(
            self,
            client=client,
            served=ServedModelCache(client, texts=self.served.texts),
            turns=Turns(client, self.metrics),
            stored=StoredResponses(client),
        )


Answer = Callable[[Gateway, Request], Awaitable[ASGIApp]]
Endpoint = Callable[[Request], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: str
    answer: Answer
    body: type[Body] | None = None
    needs_key: bool = True
    """If the router has API keys."""

    def endpoint(self, gateway: Gateway, of_key: Callable[[str], Gateway]) -> Endpoint:
        async def endpoint(request: Request) -> ASGIApp:
            visit = visit_of(request.scope)
            try:
                require_no_foreign_page(self.method, visit, gateway.config.host)
                if not self.needs_key:
                    return await self.answer(gateway, request)
                own = of_key(visit.api_key())
                # Before the body is read.
                await own.served.info()
                return await self.answer(own, request)
            except ClientDisconnect:
                return failure_response(request, Failure.of(Cancelled("the client hung up")))
            except HTTPException:
                raise
            except Exception as error:
                return failure_response(request, Failure.of(error))

        return endpoint


def json_response(value: Any, *, status: int = 200) -> Response:
    return Response(to_json(value), status_code=status, media_type="application/json")


def failure_response(request: Request, failure: Failure) -> Response:
    response = json_response(_in_form_of(request, failure), status=failure.status)
    response.headers.update(failure.headers)
    return response


def _in_form_of(request: Request, failure: Failure) -> Any:
    if request.url.path.startswith("/v1/messages"):
        return failure.anthropic(visit_of(request.scope).request_id)
    return failure.openai()
