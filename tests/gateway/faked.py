"""The application over a fake client, called in this process without a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import httpx2

from segue.api.turn import TurnEvent
from segue.gateway.app import make_app
from segue.gateway.config import GatewayConfig
from segue.gateway.http.routes import Gateway
from segue.gateway.metrics import GatewayMetrics
from segue.gateway.served import ServedModelCache
from segue.gateway.stored import StoredResponses
from segue.gateway.turns import Turns
from segue.gateway.ui.feed import Feed
from segue.sdk.client import Client
from tests.gateway.fake_client import FakeClient, says

CONFIG = GatewayConfig(port=0, max_body_bytes=100_000, max_choices=4)


@dataclass(frozen=True, slots=True)
class Faked:
    http: httpx2.AsyncClient
    client: FakeClient
    metrics: GatewayMetrics
    feed: Feed

    async def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        return await self.http.post(path, json=body, headers=headers)

    async def events(self, path: str, body: Any) -> list[Any]:
        """The data of a stream's events, parsed; [DONE] as it is."""
        response = await self.post(path, body)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
        texts = [line.removeprefix("data: ") for line in lines]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]


def faked(
    answer: Callable[[int], AsyncGenerator[TurnEvent, None]] | None = None, **settings: Any
) -> Faked:
    client = FakeClient(answer or says("Hello"))
    metrics = GatewayMetrics()
    config = replace(CONFIG, **settings)
    gateway = Gateway(
        config=config,
        client=cast(Client, client),
        served=ServedModelCache(client),
        turns=Turns(client, metrics),
        stored=StoredResponses(client),
        metrics=metrics,
    )
    transport = httpx2.ASGITransport(app=make_app(gateway))
    http = httpx2.AsyncClient(transport=transport, base_url="http://gateway")
    return Faked(http, client, metrics, gateway.feed)
