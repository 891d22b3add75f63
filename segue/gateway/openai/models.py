"""`GET /v1/models`, which OpenAI's and Anthropic's APIs share: an answer has the fields of both."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from segue.api.cluster.status import ModelInfo
from segue.gateway.http.routes import Gateway, json_response
from segue.gateway.openai.objects import Json

_STARTED_AT = int(time.time())


async def list_models(gateway: Gateway, request: Request) -> Response:
    """The served model."""
    model = _model(await gateway.served.info())
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
    return json_response(_model(await gateway.served.named(request.path_params["name"])))


def _model(info: ModelInfo) -> Json:
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
