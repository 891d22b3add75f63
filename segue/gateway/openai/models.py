"""`GET /v1/models`."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from segue.api.cluster_status import ModelInfo
from segue.gateway.http.routes import Gateway, json_response
from segue.gateway.openai.objects import Json

_STARTED_AT = int(time.time())


async def list_models(gateway: Gateway, request: Request) -> Response:
    """The served model."""
    return json_response({"object": "list", "data": [_model(await gateway.served.info())]})


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
    }
