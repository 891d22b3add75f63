"""Reads responses, whole and as events."""

from __future__ import annotations

import json
from typing import Any

from tests.gateway.faked import Faked

PATH = "/v1/responses"
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}}
BODY: dict[str, Any] = {"model": "demo", "input": "Hello", "tools": [LOOK]}
CALL = "<tool_call>\n<function=look>\n<parameter=at>\nit\n</parameter>\n</function>\n</tool_call>"
CUT_CALL = "<tool_call>\n<function=look>\n<parameter=at>\nit"


async def answered(client: Faked, **fields: Any) -> dict[str, Any]:
    response = await client.post(PATH, {**BODY, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def events(client: Faked, **fields: Any) -> list[dict[str, Any]]:
    response = await client.post(PATH, {**BODY, "stream": True, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    read = []
    for event in response.text.removesuffix("\n\n").split("\n\n"):
        if event.startswith(":"):
            continue
        name, data = event.split("\n")
        read.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {read[-1]['type']}"
    assert [event["sequence_number"] for event in read] == list(range(len(read)))
    return read


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]
