"""The routes of OpenAI's API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from segue.api.types import TextInput, TokenInput
from segue.gateway.http.door import visit_of
from segue.gateway.http.errors import Failure, UnknownPreviousResponse, UnknownResponse
from segue.gateway.http.fields import read
from segue.gateway.http.routes import Gateway, Route, json_response
from segue.gateway.http.stream import PING, EventStream, data
from segue.gateway.openai.chat import DONE, ChatAnswer
from segue.gateway.openai.chat_request import ChatRequest
from segue.gateway.openai.completion_request import CompletionRequest
from segue.gateway.openai.completions import CompletionAnswer, ShownPrompt
from segue.gateway.openai.models import get_model, list_models
from segue.gateway.openai.responses.answer import ResponseAnswer
from segue.gateway.openai.responses.request import ResponseRequest
from segue.gateway.openai.responses.tools import read_tools
from segue.gateway.stored import Json, owner_of


def _stream(gateway: Gateway, answer: ChatAnswer | CompletionAnswer) -> EventStream:
    def failed(failure: Failure) -> bytes:
        return data(failure.openai()) + DONE

    return EventStream(answer.chunks(), failed, waiting=lambda: PING, ping_s=gateway.config.ping_s)


async def complete_chat(gateway: Gateway, request: Request) -> ASGIApp:
    """An answer to a chat."""
    body = await read(request, ChatRequest, gateway.config.max_body_bytes)
    await gateway.served.named(body.model)
    visit = visit_of(request.scope)
    wanted = body.wanted(visit, gateway.config.max_choices)
    prompt_ids = None
    if body.return_token_ids:
        prompt_ids = await gateway.client.tokenize(body.chat())
    answer = ChatAnswer(
        body,
        gateway.turns.steps(wanted, visit),
        served=gateway.served,
        prompt_ids=prompt_ids,
        request_id=visit.request_id,
    )
    if body.stream:
        return _stream(gateway, answer)
    return json_response(await answer.whole())


async def complete(gateway: Gateway, request: Request) -> ASGIApp:
    """What follows a text, or token ids."""
    body = await read(request, CompletionRequest, gateway.config.max_body_bytes)
    await gateway.served.named(body.model)
    visit = visit_of(request.scope)
    prompts = body.prompts()
    answer = CompletionAnswer(
        body,
        gateway.turns.steps(body.wanted(prompts, visit, gateway.config.max_choices), visit),
        served=gateway.served,
        prompts=[await _shown(gateway, body, prompt) for prompt in prompts],
        request_id=visit.request_id,
    )
    if body.stream:
        return _stream(gateway, answer)
    return json_response(await answer.whole())


async def create_response(gateway: Gateway, request: Request) -> ASGIApp:
    """An answer to a conversation, as items."""
    body = await read(request, ResponseRequest, gateway.config.max_body_bytes)
    info = await gateway.served.named(body.model)
    visit, owner = visit_of(request.scope), owner_of(request)
    tools = read_tools(body.tools or ())
    before = await _before(gateway, owner, body.previous_response_id or "")

    async def keep(response: Json) -> None:
        if body.is_stored:
            await gateway.stored.keep(owner, response, body.input)

    answer = ResponseAnswer(
        body,
        gateway.turns.steps(body.wanted(visit, tools, before), visit),
        tools=tools,
        served=gateway.served,
        model=info.name,
        request_id=visit.request_id,
        keep=keep,
    )
    if body.stream:
        return EventStream(
            answer.events(), answer.failed, waiting=answer.waiting, ping_s=gateway.config.ping_s
        )
    return json_response(await answer.whole())


async def _before(gateway: Gateway, owner: str, previous_response_id: str) -> list[Json]:
    """The items that the input follows. Raises UnknownPreviousResponse."""
    try:
        return await gateway.stored.conversation(owner, previous_response_id)
    except UnknownResponse as error:
        raise UnknownPreviousResponse.of("previous_response_id", str(error)) from None


async def get_response(gateway: Gateway, request: Request) -> Response:
    """A stored response."""
    response_id = request.path_params["response_id"]
    return json_response(await gateway.stored.get(owner_of(request), response_id))


async def delete_response(gateway: Gateway, request: Request) -> Response:
    """Forgets a stored response."""
    response_id = request.path_params["response_id"]
    await gateway.stored.delete(owner_of(request), response_id)
    return json_response({"id": response_id, "object": "response", "deleted": True})


async def _shown(
    gateway: Gateway, body: CompletionRequest, prompt: TextInput | TokenInput
) -> ShownPrompt:
    match prompt:
        case TextInput(text):
            ids = await gateway.client.tokenize(prompt) if body.return_token_ids else ()
        case TokenInput(ids):
            # Control tokens too, by their names, as in a prompt that is a text.
            tokens = (await gateway.client.detokenize(ids)).tokens if body.echo else ()
            text = b"".join(tokens).decode(errors="replace")
    return ShownPrompt(text if body.echo else "", list(ids))


ROUTES = [
    Route(method="GET", path="/v1/models", answer=list_models),
    # A name may be a hub id or a path.
    Route(method="GET", path="/v1/models/{name:path}", answer=get_model),
    Route(method="POST", path="/v1/chat/completions", answer=complete_chat, body=ChatRequest),
    Route(method="POST", path="/v1/completions", answer=complete, body=CompletionRequest),
    Route(method="POST", path="/v1/responses", answer=create_response, body=ResponseRequest),
    Route(method="GET", path="/v1/responses/{response_id}", answer=get_response),
    Route(method="DELETE", path="/v1/responses/{response_id}", answer=delete_response),
]
