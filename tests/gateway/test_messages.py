"""Anthropic's messages over a fake client: the objects and the events that come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from segue.api.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    SegueError,
    TransferFailed,
    Unavailable,
)
from segue.api.turn import FinishReason
from segue.gateway.anthropic.request import MessagesRequest
from tests.gateway.fake_client import fails, says
from tests.gateway.faked import Faked, faked

PATH = "/v1/messages?beta=true"
LOOK = {"name": "look", "input_schema": {"type": "object"}}
BODY = {
    "model": "demo",
    "max_tokens": 100,
    "tools": [LOOK],
    "messages": [{"role": "user", "content": "Hello"}],
}
CALL = "<tool_call>\n<function=look>\n<parameter=at>\nit\n</parameter>\n</function>\n</tool_call>"
THOUGHT = ("Hm.", "\n</think>\n\n")


async def events(client: Faked, **fields: Any) -> list[tuple[str, Any]]:
    response = await client.post(PATH, {**BODY, "stream": True, **fields})
    assert response.status_code == 200, response.text
    read = []
    for event in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        read.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert all(name == data["type"] for name, data in read)
    return read


async def test_an_answer_is_a_message_of_blocks() -> None:
    said = says(*THOUGHT, f"Let me see.\n\n{CALL}", starts_in_reasoning=True, cached_tokens=3)
    answer = (await faked(said).post(PATH, BODY)).json()

    thinking, text, call = answer["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "Hm.")
    assert thinking["signature"]
    assert text == {"type": "text", "text": "Let me see."}
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "look", {"at": "it"})
    assert call["id"].startswith("toolu_")
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", "demo")
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("tool_use", None)
    assert answer["usage"] == {
        "input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 3,
        "output_tokens": 3,
    }


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({}, ("end_turn", None)),
        ({"stop_match": "END"}, ("stop_sequence", "END")),
        ({"reason": FinishReason.LENGTH}, ("max_tokens", None)),
    ],
)
async def test_why_an_answer_ended(how: Any, reason: Any) -> None:
    answer = (await faked(says("a", **how)).post(PATH, BODY)).json()
    *_, (_, last), _ = await events(faked(says("a", **how)))

    assert (answer["stop_reason"], answer["stop_sequence"]) == reason
    assert (last["delta"]["stop_reason"], last["delta"]["stop_sequence"]) == reason


async def test_a_stream_opens_and_closes_each_block_in_turn() -> None:
    said = says(*THOUGHT, f"Look.\n\n{CALL}", starts_in_reasoning=True, cached_tokens=3)
    read = await events(faked(said))

    assert [name for name, _ in read] == [
        *("message_start", "ping"),
        *("content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "content_block_start", "content_block_delta"),
        *("content_block_stop", "content_block_start", "content_block_delta"),
        *("content_block_delta", "content_block_stop", "message_delta", "message_stop"),
    ]
    started_as = [data["content_block"] for name, data in read if name == "content_block_start"]
    assert [block["type"] for block in started_as] == ["thinking", "text", "tool_use"]
    deltas = [data["delta"] for name, data in read if name == "content_block_delta"]
    assert [delta["type"] for delta in deltas] == [
        *("thinking_delta", "signature_delta", "text_delta"),
        *("input_json_delta", "input_json_delta"),
    ]
    fragments = [delta["partial_json"] for delta in deltas if "partial_json" in delta]
    assert json.loads("".join(fragments)) == {"at": "it"}
    indices = [data["index"] for _, data in read if "index" in data]
    assert indices == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    start, last = read[0][1]["message"], read[-2][1]
    assert (start["usage"]["input_tokens"], start["content"]) == (7, [])
    assert last["usage"]["cache_read_input_tokens"] == 3


async def test_a_silent_stream_is_kept_alive() -> None:
    names = [name for name, _ in await events(faked(says("a", wait_s=0.1), ping_s=0.02))]

    assert names[:3] == ["message_start", "ping", "ping"]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequest("no"), 400, "invalid_request_error"),
        (Overloaded("full"), 429, "rate_limit_error"),
        (Unavailable("down"), 503, "overloaded_error"),
        (DeadlineExceeded("late"), 504, "timeout_error"),
        (SegueError("a bug"), 500, "api_error"),
    ],
    ids=str,
)
async def test_an_error_has_its_status_and_the_apis_form(
    error: SegueError, status: int, kind: str
) -> None:
    response = await faked(fails(error)).post(PATH, BODY, **{"X-Request-Id": "mine"})

    assert response.status_code == status
    assert response.json() == {
        "type": "error",
        "error": {"type": kind, "message": str(error)},
        "request_id": "mine",
    }
    assert response.headers["request-id"] == "mine"


async def test_an_error_after_the_first_token_is_the_streams_last_event() -> None:
    *_, (name, last) = await events(faked(fails(TransferFailed("lost"), "a")), tools=None)

    assert (name, last["error"]["message"]) == ("error", "lost")


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/v1/messages/nothing", 404, "not_found_error"),
        ("/v1/messages", 404, "not_found_error"),
    ],
)
async def test_what_is_not_there_has_the_apis_form(path: str, status: int, kind: str) -> None:
    response = await faked().post(path, {**BODY, "model": "claude"})

    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)


async def test_a_body_that_is_too_large_has_the_apis_form() -> None:
    response = await faked().post(PATH, {"system": "x" * 200_000})

    assert response.status_code == 413
    assert response.json()["error"]["type"] == "request_too_large"


async def test_tokens_are_counted_without_max_tokens() -> None:
    body = {name: value for name, value in BODY.items() if name != "max_tokens"}
    counted = await faked().post("/v1/messages/count_tokens", {**body, "system": "Be brief."})

    assert counted.json() == {"input_tokens": 2}


async def test_refused_and_ignored_fields() -> None:
    table = {row.name: row.status for row in MessagesRequest.table()}
    ignored = {name: {"any": 1} for name, status in table.items() if status == "ignored"}

    assert (await faked().post(PATH, {**BODY, **ignored})).status_code == 200
    for name, status in table.items():
        if status == "refused":
            response = await faked().post(PATH, {**BODY, name: "something"})
            assert response.status_code == 400, name


async def test_priority_and_salt_are_the_turns() -> None:
    client = faked()
    await client.post(PATH, {**BODY, "priority": -2, "cache_salt": "a"})

    (asked,) = client.client.asked
    assert (asked.priority, asked.cache_salt) == (-2, "a")
