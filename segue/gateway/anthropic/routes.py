"""The routes of Anthropic's API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from segue.gateway.anthropic.messages import MessagesAnswer
from segue.gateway.anthropic.request import CountRequest, MessagesRequest
from segue.gateway.http.answer import respond
from segue.gateway.http.door import visit_of
from segue.gateway.http.fields import converted
from segue.gateway.http.routes import Gateway, Route, json_response


async def create_message(gateway: Gateway, request: Request) -> ASGIApp:
    """An answer to a chat."""
    body, model = await gateway.read(request, MessagesRequest)
    visit = visit_of(request.scope)
    wanted = await converted(body, lambda: body.wanted(visit))
    steps = gateway.turns.steps(wanted, visit)
    answer = MessagesAnswer(steps, model=model.name, request_id=visit.request_id)
    return await respond(gateway, answer, stream=body.stream)


async def count_tokens(gateway: Gateway, request: Request) -> Response:
    """The number of a chat's tokens."""
    body, _ = await gateway.read(request, CountRequest)
    body.form()
    chat = await converted(body, body.chat)
    return json_response({"input_tokens": len(await gateway.client.tokenize(chat))})


ROUTES = [
    Route(method="POST", path="/v1/messages", answer=create_message, body=MessagesRequest),
    Route(method="POST", path="/v1/messages/count_tokens", answer=count_tokens, body=CountRequest),
]
