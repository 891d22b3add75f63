"""Routes for operators, and vLLM's routes for tokenization."""

from __future__ import annotations

import os
import time
from typing import Any

from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from segue.api.errors import InvalidRequest, PermissionDenied, SegueError
from segue.api.types import ChatInput, TextInput
from segue.gateway.http.fields import Body, honoured, ignored, refused
from segue.gateway.http.routes import Gateway, Route, json_response
from segue.gateway.openai.chat_request import ChatRequest


class TokenizeRequest(Body):
    prompt: str | None = honoured("A text; control tokens in it are read as such.")
    messages: list[dict[str, Any]] | None = honoured("In place of `prompt`: a chat.", min_length=1)
    tools: list[dict[str, Any]] | None = honoured("For `messages`.")
    chat_template_kwargs: dict[str, Any] | None = honoured("For `messages`.")
    add_generation_prompt: bool | None = honoured("For `messages`; true by default.")
    continue_final_message: bool | str | None = honoured("For `messages`.")
    return_token_strs: bool | None = honoured("Also the texts of the tokens.")
    add_special_tokens: Any = ignored("Nothing is added; a chat has the template's.")
    chat_template: Any = refused("the checkpoint's template is used: leave it out")

    def turn_input(self) -> ChatInput | TextInput:
        """Raises InvalidRequest."""
        if self.prompt is not None and self.messages is None:
            return TextInput(self.prompt)
        if self.messages is None or self.prompt is not None:
            raise InvalidRequest.at(
                "prompt", "expected either prompt or messages: send one of them"
            )
        names = ("tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
        options = {name: getattr(self, name) for name in names}
        return ChatRequest(messages=self.messages, **options).chat()


class DetokenizeRequest(Body):
    tokens: list[int] = honoured("Token ids.", ...)


async def tokenize(gateway: Gateway, request: Request) -> Response:
    """The token ids of a text or a chat."""
    body, model = await gateway.read(request, TokenizeRequest)
    ids = await gateway.client.tokenize(body.turn_input())
    texts = None
    if body.return_token_strs:
        known = await gateway.served.token_bytes(ids)
        texts = [known[token_id].decode(errors="replace") for token_id in ids]
    return json_response(
        {
            "count": len(ids),
            "max_model_len": model.max_context,
            "tokens": ids,
            "token_strs": texts,
        }
    )


async def detokenize(gateway: Gateway, request: Request) -> Response:
    """The text of token ids, without special tokens."""
    body, _ = await gateway.read(request, DetokenizeRequest)
    return json_response({"prompt": (await gateway.client.detokenize(body.tokens)).text})


async def health(gateway: Gateway, request: Request) -> Response:
    """Whether this process runs: for liveness probes."""
    return Response(status_code=200)


async def ready(gateway: Gateway, request: Request) -> Response:
    """Whether turns can be served: 503 if not."""
    try:
        is_ready = await gateway.client.ready()
    except SegueError:
        is_ready = False
    return Response(status_code=200 if is_ready else 503)


async def process(gateway: Gateway, request: Request) -> Response:
    """This process: its id, uptime in seconds, and whether it drains."""
    return json_response(
        {
            "pid": os.getpid(),
            "uptime_s": time.monotonic() - gateway.serves_since,
            "draining": gateway.drain_asked.is_set(),
        }
    )


async def drain(gateway: Gateway, request: Request) -> Response:
    """Stops the process once its running requests are answered; its supervisor restarts it."""
    if not await gateway.client.is_operator():
        raise PermissionDenied("expected an operator's API key, got a tenant's")
    gateway.drain_asked.set()
    return await process(gateway, request)


async def metrics(gateway: Gateway, request: Request) -> Response:
    """This process's metrics, in Prometheus' format."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    text = encode(gateway.metrics.shown())
    return Response(text, headers={"content-type": content_type})


ROUTES = [
    Route(method="POST", path="/tokenize", answer=tokenize, body=TokenizeRequest),
    Route(method="POST", path="/detokenize", answer=detokenize, body=DetokenizeRequest),
    Route(method="GET", path="/health", answer=health, needs_key=False),
    Route(method="GET", path="/ready", answer=ready, needs_key=False),
    Route(method="GET", path="/metrics", answer=metrics, needs_key=False),
    Route(method="GET", path="/process", answer=process),
    Route(method="POST", path="/drain", answer=drain),
]
