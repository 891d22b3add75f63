"""The routes of Anthropic's API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from segue.gateway.anthropic.messages import MessagesAnswer
from segue.gateway.anthropic.request import CountRequest, MessagesRequest
from segue.gateway.http.door import visit_of
from segue.gateway.http.errors import Failure
from segue.gateway.http.fields import read
from segue.gateway.http.routes import Gateway, Route, json_response
from segue.gateway.http.stream import EventStream, event


async def create_message(gateway: Gateway, request: Request) -> ASGIApp:
    """An answer to a chat."""
    body = await read(request, MessagesRequest, gateway.config.max_body_bytes)
    info = await gateway.served.named(body.model)
    visit = visit_of(request.scope)
    steps = gateway.turns.steps(body.wanted(visit), visit)
    answer = MessagesAnswer(steps, model=info.name, request_id=visit.request_id)
    if not body.stream:
        return json_response(await answer.whole())

    def failed(failure: Failure) -> bytes:
        return event("error", failure.anthropic(visit.request_id))

    return EventStream(
        answer.events(), failed, waiting=answer.waiting, ping_s=gateway.config.ping_s
    )


async def count_tokens(gateway: Gateway, request: Request) -> Response:
    """The number of a chat's tokens."""
    body = await read(request, CountRequest, gateway.config.max_body_bytes)
    await gateway.served.named(body.model)
    body.form()
    return json_response({"input_tokens": len(await gateway.client.tokenize(body.chat()))})


ROUTES = [
    Route(method="POST", path="/v1/messages", answer=create_message, body=MessagesRequest),
    Route(method="POST", path="/v1/messages/count_tokens", answer=count_tokens, body=CountRequest),
]
