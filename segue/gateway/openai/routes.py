"""The routes of OpenAI's API."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from segue.api.cluster.status import ModelInfo
from segue.api.types import TextInput, TokenInput
from segue.gateway.http.answer import respond
from segue.gateway.http.door import visit_of
from segue.gateway.http.errors import Json, UnknownPreviousResponse, UnknownResponse
from segue.gateway.http.fields import converted
from segue.gateway.http.routes import Gateway, Route, json_response
from segue.gateway.openai.chat import ChatAnswer
from segue.gateway.openai.chat_request import ChatRequest
from segue.gateway.openai.completion_request import CompletionRequest
from segue.gateway.openai.completions import CompletionAnswer, ShownPrompt
from segue.gateway.openai.responses.answer import ResponseAnswer
from segue.gateway.openai.responses.items import read_items
from segue.gateway.openai.responses.request import ResponseRequest
from segue.gateway.openai.responses.tools import read_tools
from segue.gateway.stored import Conversation, owner_of

_STARTED_AT = int(time.time())


async def list_models(gateway: Gateway, request: Request) -> Response:
    """The served model."""
    model = _shown_model(await gateway.served.info())
    return json_response(
        {
            "object": "list",
            "data": [model],
            "has_more": False,
            "first_id": model["id"],
            "last_id": model["id"],
        }
    )


async def get_model(gateway: Gateway, request: Request) -> Response:
    """The served model, by its name."""
    return json_response(_shown_model(await gateway.served.named(request.path_params["name"])))


def _shown_model(info: ModelInfo) -> Json:
    """OpenAI's and Anthropic's clients ask at the same path: the answer has the fields of both."""
    return {
        "id": info.name,
        "object": "model",
        "created": _STARTED_AT,
        "owned_by": "segue",
        "root": info.name,
        "parent": None,
        "max_model_len": info.max_context,
        "type": "model",
        "display_name": info.name,
        "created_at": datetime.fromtimestamp(_STARTED_AT, UTC).isoformat(),
        "max_input_tokens": info.max_context,
    }


async def complete_chat(gateway: Gateway, request: Request) -> ASGIApp:
    """An answer to a chat."""
    body, model = await gateway.read(request, ChatRequest)
    visit = visit_of(request.scope)
    limits = (gateway.config.max_choices, model.max_turns)
    wanted = await converted(body, lambda: body.wanted(visit, *limits))
    prompt_ids = None
    if body.return_token_ids:
        prompt_ids = await gateway.client.tokenize(await converted(body, body.chat))
    answer = ChatAnswer(
        body,
        gateway.turns.steps(wanted, visit),
        model=model,
        served=gateway.served,
        prompt_ids=prompt_ids,
        request_id=visit.request_id,
    )
    return await respond(gateway, answer, stream=body.stream)


async def complete(gateway: Gateway, request: Request) -> ASGIApp:
    """Continues a text, or token ids."""
    body, model = await gateway.read(request, CompletionRequest)
    visit = visit_of(request.scope)
    limits = (gateway.config.max_choices, model.max_turns)
    prompts = await converted(body, body.prompts)
    wanted = body.wanted(prompts, visit, *limits)
    answer = CompletionAnswer(
        body,
        gateway.turns.steps(wanted, visit),
        model=model,
        served=gateway.served,
        prompts=[await _shown_prompt(gateway, body, prompt) for prompt in prompts],
        request_id=visit.request_id,
    )
    return await respond(gateway, answer, stream=body.stream)


async def create_response(gateway: Gateway, request: Request) -> ASGIApp:
    """An answer to a conversation, as items."""
    body, model = await gateway.read(request, ResponseRequest)
    visit, owner = visit_of(request.scope), owner_of(request)
    tools = await converted(body, lambda: read_tools(body.tools or ()))
    before = await _before(gateway, owner, body.previous_response_id or "")

    async def keep(response: Json) -> None:
        if body.is_stored:
            await gateway.stored.keep(owner, response, read_items(body.input))

    wanted = await converted(
        body, lambda: body.wanted(visit, tools, before.items), more_bytes=before.num_bytes
    )
    answer = ResponseAnswer(
        body,
        gateway.turns.steps(wanted, visit),
        tools=tools,
        served=gateway.served,
        model=model.name,
        request_id=visit.request_id,
        keep=keep,
    )
    return await respond(gateway, answer, stream=body.stream)


async def _before(gateway: Gateway, owner: str, previous_response_id: str) -> Conversation:
    """The items that the input follows. Raises InvalidRequest."""
    # A client that sends its whole input cannot send more either.
    max_bytes = gateway.config.max_body_bytes
    try:
        return await gateway.stored.conversation(owner, previous_response_id, max_bytes)
    except UnknownResponse as error:
        raise UnknownPreviousResponse.at("previous_response_id", str(error)) from None


async def get_response(gateway: Gateway, request: Request) -> Response:
    """A stored response."""
    response_id = request.path_params["response_id"]
    return json_response(await gateway.stored.get(owner_of(request), response_id))


async def delete_response(gateway: Gateway, request: Request) -> Response:
    """Forgets a stored response."""
    response_id = request.path_params["response_id"]
    await gateway.stored.delete(owner_of(request), response_id)
    return json_response({"id": response_id, "object": "response", "deleted": True})


async def _shown_prompt(
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
